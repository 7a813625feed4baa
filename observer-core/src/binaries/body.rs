//! A decoded function.

/// The relevant properties of a function's instructions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Its RET instructions, as offsets from its first one, ascending.
    pub returns: Vec<usize>,
    /// Whether it can also end in another way than by these, such as by a jump to another function.
    pub leaves: bool,
}
