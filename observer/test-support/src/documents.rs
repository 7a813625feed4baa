//! Commands in documents, which tests run as they are written there.

/// The lines of a document that are indented by four spaces, without the remarks after them.
pub fn commands(document: &str) -> impl Iterator<Item = &str> {
    let lines = document.lines().filter_map(|it| it.strip_prefix("    "));
    lines.map(|it| it.split("  ").next().unwrap_or_default())
}

/// The command that begins with these words. Panics if there is none, or another one as well.
pub fn command<'a>(document: &'a str, words: &str) -> &'a str {
    let mut found: Vec<_> = commands(document)
        .filter(|it| it.starts_with(words))
        .collect();
    found.dedup();
    let [command] = found.as_slice() else {
        panic!("not one command begins with {words:?}: {found:?}")
    };
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = "Then:\n\n    a b        ends it\n    c\n\n    a b\n    c d  e\n";

    #[test]
    fn remarks_are_not_part_of_a_command() {
        assert_eq!(command(DOCUMENT, "a"), "a b");
    }

    #[test]
    #[should_panic(expected = "not one command")]
    fn a_command_is_the_only_one() {
        command(DOCUMENT, "c");
    }

    #[test]
    #[should_panic(expected = "not one command")]
    fn a_command_is_there() {
        command(DOCUMENT, "b");
    }
}
