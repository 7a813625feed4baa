//! Following members, qualifiers and sizes from type to type, in bounded steps.

use super::types::{Kind, Type, Types};

/// References followed from one type to the next before they count as circular. The
/// longest chain of typedefs and qualifiers in a kernel is below ten.
pub(super) const CHAIN: usize = 64;

/// Size of a pointer: the programs run on 64-bit kernels only.
const POINTER: u64 = 8;

/// Structs and unions entered in one look-up. A `task_struct` has some dozens of
/// anonymous ones.
pub(super) const ENTERED: usize = 10_000;

/// A dangling or circular reference.
#[derive(Debug)]
pub(super) struct Broken;

/// A member that was found.
pub(super) struct Place {
    bit_offset: u64,
    type_id: u32,
    /// The width of a bitfield; 0 for an ordinary member, also of a structure with bitfields.
    bits: u32,
}

/// Offset and size of a field, in bits. Bits are counted from the least significant one, as in little-endian kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// The byte the first bit is in.
    pub byte_offset: u32,
    /// The first bit within that byte.
    pub bit_offset: u32,
    /// How many bits.
    pub bits: u32,
}

impl Types {
    /// The type behind typedefs, qualifiers and type tags.
    pub(super) fn unqualified(&self, id: u32) -> Result<Type<'_>, Broken> {
        let mut id = id;
        for _ in 0..CHAIN {
            let found = self.get(id).ok_or(Broken)?;
            match found.kind {
                Kind::Typedef | Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag => {
                    id = found.size_or_id;
                }
                _ => return Ok(found),
            }
        }
        Err(Broken)
    }

    fn size_of(&self, id: u32) -> Result<u64, Broken> {
        let mut id = id;
        let mut elements = 1_u64;
        for _ in 0..CHAIN {
            let found = self.unqualified(id)?;
            if let Some((of, length)) = found.array() {
                elements = elements.checked_mul(u64::from(length)).ok_or(Broken)?;
                id = of;
                continue;
            }
            let size = match found.kind {
                Kind::Int
                | Kind::Float
                | Kind::Enum
                | Kind::Enum64
                | Kind::Struct
                | Kind::Union => u64::from(found.size_or_id),
                Kind::Ptr => POINTER,
                _ => return Err(Broken),
            };
            return elements.checked_mul(size).ok_or(Broken);
        }
        Err(Broken)
    }

    pub(super) fn bits(&self, place: &Place) -> Result<Bits, Broken> {
        let bits = match place.bits {
            0 => self
                .size_of(place.type_id)?
                .checked_mul(8)
                .and_then(|bits| u32::try_from(bits).ok())
                .ok_or(Broken)?,
            bits => bits,
        };
        let byte_offset = u32::try_from(place.bit_offset / 8).map_err(|_| Broken)?;
        Ok(Bits {
            byte_offset,
            bit_offset: (place.bit_offset % 8) as u32,
            bits,
        })
    }

    /// Follows `path` from the structure `id`.
    pub(super) fn walk(
        &self,
        id: u32,
        path: &str,
        budget: &mut usize,
    ) -> Result<Option<Place>, Broken> {
        let mut place = Place {
            bit_offset: 0,
            type_id: id,
            bits: 0,
        };
        for segment in path.split('.') {
            let (name, index) = match segment.strip_suffix(']').and_then(|it| it.split_once('[')) {
                Some((name, index)) => match index.parse::<u32>() {
                    Ok(index) => (name, Some(index)),
                    Err(_) => return Ok(None),
                },
                None => (segment, None),
            };
            let base = place.bit_offset;
            let Some(inner) = self.find(place.type_id, name, budget)? else {
                return Ok(None);
            };
            place = inner;
            place.bit_offset = base.checked_add(place.bit_offset).ok_or(Broken)?;
            if let Some(index) = index {
                match self.unqualified(place.type_id)?.array() {
                    Some((of, length)) if index < length => {
                        place.type_id = of;
                        place.bit_offset = self
                            .size_of(of)?
                            .checked_mul(8)
                            .and_then(|bits| bits.checked_mul(u64::from(index)))
                            .and_then(|bits| bits.checked_add(place.bit_offset))
                            .ok_or(Broken)?;
                    }
                    _ => return Ok(None),
                }
            }
        }
        Ok(Some(place))
    }

    /// Finds the member `name` of the structure `id` or of one of its anonymous members.
    fn find(&self, id: u32, name: &str, budget: &mut usize) -> Result<Option<Place>, Broken> {
        // A list and not a recursion: hostile BTF would decide how deep the stack goes.
        let mut pending = vec![(id, 0_u64)];
        while let Some((id, base)) = pending.pop() {
            *budget = budget.checked_sub(1).ok_or(Broken)?;
            for member in self.unqualified(id)?.members() {
                let bit_offset = base
                    .checked_add(u64::from(member.bit_offset))
                    .ok_or(Broken)?;
                if member.name == name {
                    return Ok(Some(Place {
                        bit_offset,
                        type_id: member.type_id,
                        bits: member.bits,
                    }));
                }
                if member.name.is_empty() && pending.len() < ENTERED {
                    pending.push((member.type_id, bit_offset));
                }
            }
        }
        Ok(None)
    }
}
