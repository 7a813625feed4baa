//! Following members, qualifiers and sizes from type to type, in bounded steps.

use btf_rs::{Btf, BtfType, Member, Type};

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

/// A member that was found: `bits` is set for bitfields.
pub(super) struct Place {
    bit_offset: u64,
    type_id: u32,
    bits: Option<u32>,
}

/// Where a field lies, in bits. Bits are counted from the least significant one, as
/// little-endian kernels lay them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// The byte the first bit is in.
    pub byte_offset: u32,
    /// The first bit within that byte.
    pub bit_offset: u32,
    /// How many bits.
    pub bits: u32,
}

/// All types of a kernel.
pub(super) struct Types(pub Btf);

impl Types {
    /// The name of a type or member, empty if it has none.
    pub(super) fn name(&self, of: &dyn BtfType) -> String {
        self.0.resolve_name(of).unwrap_or_default()
    }

    /// The type behind typedefs, qualifiers and type tags.
    pub(super) fn unqualified(&self, id: u32) -> Result<Type, Broken> {
        let mut kind = self.0.resolve_type_by_id(id).map_err(|_| Broken)?;
        for _ in 0..CHAIN {
            let next = match &kind {
                Type::Typedef(it) => self.0.resolve_chained_type(it),
                Type::Const(it) | Type::Volatile(it) | Type::Restrict(it) => {
                    self.0.resolve_chained_type(it)
                }
                Type::TypeTag(it) => self.0.resolve_chained_type(it),
                _ => return Ok(kind),
            };
            kind = next.map_err(|_| Broken)?;
        }
        Err(Broken)
    }

    fn size_of(&self, id: u32) -> Result<u64, Broken> {
        let mut id = id;
        let mut elements = 1_u64;
        for _ in 0..CHAIN {
            let size = match self.unqualified(id)? {
                Type::Array(it) => {
                    elements = elements.checked_mul(it.len() as u64).ok_or(Broken)?;
                    id = it.get_type_id().ok_or(Broken)?;
                    continue;
                }
                Type::Int(it) => it.size() as u64,
                Type::Float(it) => it.size() as u64,
                Type::Enum(it) => it.size() as u64,
                Type::Enum64(it) => it.size() as u64,
                Type::Struct(it) | Type::Union(it) => it.size() as u64,
                Type::Ptr(_) => POINTER,
                _ => return Err(Broken),
            };
            return elements.checked_mul(size).ok_or(Broken);
        }
        Err(Broken)
    }

    pub(super) fn bits(&self, place: &Place) -> Result<Bits, Broken> {
        let bits = match place.bits {
            Some(bits) => bits,
            None => self
                .size_of(place.type_id)?
                .checked_mul(8)
                .and_then(|bits| u32::try_from(bits).ok())
                .ok_or(Broken)?,
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
            bits: None,
        };
        for segment in path.split('.') {
            let (name, index) = match segment.strip_suffix(']').and_then(|it| it.split_once('[')) {
                Some((name, index)) => match index.parse::<u64>() {
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
                match self.unqualified(place.type_id)? {
                    Type::Array(array) if index < array.len() as u64 => {
                        place.type_id = array.get_type_id().ok_or(Broken)?;
                        place.bit_offset = self
                            .size_of(place.type_id)?
                            .checked_mul(8)
                            .and_then(|bits| bits.checked_mul(index))
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
            let (Type::Struct(it) | Type::Union(it)) = self.unqualified(id)? else {
                continue;
            };
            for member in &it.members {
                let type_id = member.get_type_id().ok_or(Broken)?;
                let bit_offset = base
                    .checked_add(u64::from(member.bit_offset()))
                    .ok_or(Broken)?;
                let member_name = self.name(member);
                if member_name == name {
                    return Ok(Some(Place {
                        bit_offset,
                        type_id,
                        bits: bitfield_size(member),
                    }));
                }
                if member_name.is_empty() && pending.len() < ENTERED {
                    pending.push((type_id, bit_offset));
                }
            }
        }
        Ok(None)
    }
}

/// The width of a bitfield; `None` for an ordinary member, which a structure that has
/// bitfields describes with a width of zero.
fn bitfield_size(member: &Member) -> Option<u32> {
    member.bitfield_size().filter(|bits| *bits != 0)
}
