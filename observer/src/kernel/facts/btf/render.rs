//! Function signatures as C source.

use btf_rs::{BtfType, FuncProto, Type};

use super::walk::{CHAIN, Types};

impl Types {
    /// The types of all parameters.
    pub(super) fn args(&self, proto: &FuncProto) -> Option<Vec<String>> {
        proto
            .parameters
            .iter()
            .map(|parameter| match parameter.is_variadic() {
                true => Some("...".to_owned()),
                false => self.render(parameter.get_type_id()?),
            })
            .collect()
    }

    /// A type as C source, without qualifiers.
    fn render(&self, id: u32) -> Option<String> {
        let mut id = id;
        let mut suffix = String::new();
        for _ in 0..CHAIN {
            let kind = self.0.resolve_type_by_id(id).ok()?;
            let name = match &kind {
                Type::Ptr(it) => {
                    suffix.insert(0, '*');
                    id = it.get_type_id()?;
                    continue;
                }
                Type::Const(it) | Type::Volatile(it) | Type::Restrict(it) => {
                    id = it.get_type_id()?;
                    continue;
                }
                Type::TypeTag(it) => {
                    id = it.get_type_id()?;
                    continue;
                }
                Type::Void => "void".to_owned(),
                Type::Int(it) => self.name(it),
                Type::Float(it) => self.name(it),
                Type::Typedef(it) => self.name(it),
                Type::Struct(it) => format!("struct {}", self.name(it)),
                Type::Union(it) => format!("union {}", self.name(it)),
                Type::Enum(it) => format!("enum {}", self.name(it)),
                Type::Enum64(it) => format!("enum {}", self.name(it)),
                Type::Fwd(it) if it.is_union() => format!("union {}", self.name(it)),
                Type::Fwd(it) => format!("struct {}", self.name(it)),
                Type::FuncProto(_) => "function".to_owned(),
                _ => return None,
            };
            return Some(match suffix.is_empty() {
                true => name,
                false => format!("{name} {suffix}"),
            });
        }
        None
    }
}
