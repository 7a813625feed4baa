use std::{fs, path::Path};

/// The folders, each of which may import those before it.
const FOLDERS: [&str; 4] = ["facts", "hooks", "loader", "maps"];

/// What the file imports from this module: the text of each `use` of it.
fn imports(text: &str) -> impl Iterator<Item = &str> {
    let uses = text.split("kernel::").skip(1);
    uses.map(|rest| rest.split(';').next().unwrap_or_default())
}

fn check(dir: &Path, later: &[&str]) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            check(&path, later);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for import in imports(&text) {
            for folder in later {
                let wrong = import.contains(&format!("{folder}::"));
                assert!(!wrong, "{} imports {folder}", path.display());
            }
        }
    }
}

#[test]
fn folders_import_only_those_before_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernel");
    for (at, folder) in FOLDERS.iter().enumerate() {
        let mut later = FOLDERS[at + 1..].to_vec();
        later.push("attached");
        check(&root.join(folder), &later);
    }
}
