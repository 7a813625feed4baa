//! Function signatures as C source.

use super::{
    types::{Kind, Type, Types},
    walk::CHAIN,
};

impl Types {
    /// The types of all parameters of a prototype.
    pub(super) fn args(&self, proto: Type<'_>) -> Option<Vec<String>> {
        proto
            .parameters()
            .map(|parameter| match parameter {
                None => Some("...".to_owned()),
                Some(id) => self.render(id),
            })
            .collect()
    }

    /// A type as C source, without qualifiers.
    fn render(&self, id: u32) -> Option<String> {
        let mut id = id;
        let mut suffix = String::new();
        for _ in 0..CHAIN {
            let found = self.get(id)?;
            let prefix = match found.kind {
                Kind::Ptr => {
                    suffix.insert(0, '*');
                    id = found.size_or_id;
                    continue;
                }
                Kind::Const | Kind::Volatile | Kind::Restrict | Kind::TypeTag => {
                    id = found.size_or_id;
                    continue;
                }
                Kind::Void => "void",
                Kind::FuncProto => "function",
                Kind::Int | Kind::Float | Kind::Typedef => "",
                Kind::Struct => "struct ",
                Kind::Union => "union ",
                Kind::Enum | Kind::Enum64 => "enum ",
                Kind::Fwd if found.flag => "union ",
                Kind::Fwd => "struct ",
                _ => return None,
            };
            let space = if suffix.is_empty() { "" } else { " " };
            return Some(format!("{prefix}{}{space}{suffix}", found.name));
        }
        None
    }
}
