//! The house's own rules, where a machine can see them.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// A file reads at a sitting.
#[test]
fn no_file_is_longer_than_500_lines() {
    let mut files = Vec::new();
    rust_files(&root(), &mut files);
    assert!(files.len() > 50, "the files were found");
    let long: Vec<String> = files
        .iter()
        .map(|path| (path, fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(_, lines)| *lines > 500)
        .map(|(path, lines)| format!("{} has {lines}", path.display()))
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

/// ARCHITECTURE.md names every room, and every room that it names is there.
#[test]
fn the_map_is_of_this_house() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rooms = [
        "api",
        "control-plane",
        "gateway",
        "adapter-loader",
        "scaler-metrics",
        "simulator",
        "cli",
        "bench",
        "tests",
        "deploy",
        "xtask",
    ];
    for room in rooms {
        assert!(root().join(room).is_dir(), "{room}");
        assert!(map.contains(&format!("`{room}/")), "ARCHITECTURE.md does not name {room}/");
    }
    for room in ["gateway", "adapter-loader", "scaler-metrics", "control-plane"] {
        for entry in fs::read_dir(root().join(room).join("src")).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
            if name != "lib" {
                assert!(map.contains(&format!("`{name}`")), "ARCHITECTURE.md does not say what {room}'s {name} is for");
            }
        }
    }
}

/// The first line of a test says what it is about: that is the list of them.
#[test]
fn each_test_says_what_it_is_about() {
    let mut files = Vec::new();
    rust_files(&root().join("tests/e2e"), &mut files);
    assert!(files.len() > 50, "the files were found");
    for file in files {
        assert!(fs::read_to_string(&file).unwrap().starts_with("//! "), "{}", file.display());
    }
}

/// The continuous integration runs what the README tells people to run.
#[test]
fn the_readme_and_the_ci_agree() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    for command in ["cargo xtask up", "cargo xtask test"] {
        assert!(readme.contains(command), "{command}");
    }
    assert!(ci.contains("cargo xtask test"));
}

/// What the README shows are configurations that this version takes.
#[test]
fn the_readmes_configurations_are_right() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let shown: Vec<_> = readme.split("```yaml").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(shown.len(), 2);
    for yaml in shown {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tutti.yaml");
        fs::write(&file, yaml).unwrap();
        let checked = tutti_tests::run(&["check", "--config", file.to_str().unwrap()], &[]);
        assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    }
}

/// Links between the project's pages lead somewhere.
#[test]
fn links_lead_somewhere() {
    let mut pages = vec![root().join("README.md"), root().join("ARCHITECTURE.md"), root().join("CONTRIBUTING.md")];
    for folder in ["docs", "docs/decisions", "docs/reference"] {
        let entries = fs::read_dir(root().join(folder)).unwrap().flatten().map(|entry| entry.path());
        pages.extend(entries.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    }
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if !link.contains("://") && !file.is_empty() {
                assert!(page.with_file_name(file).exists(), "{}: {link}", page.display());
            }
        }
    }
}

/// The guides name metrics that there are.
#[test]
fn the_guides_name_metrics_that_there_are() {
    let known = fs::read_to_string(root().join("docs/reference/metrics.md")).unwrap();
    let pages = fs::read_dir(root().join("docs")).unwrap().flatten().map(|entry| entry.path());
    for page in pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        let word = |char: char| !(char.is_ascii_lowercase() || char == '_');
        for name in text.split(word).filter(|word| word.starts_with("tutti_") && word.len() > "tutti_".len()) {
            assert!(known.contains(&format!("`{name}`")), "{}: {name}", page.display());
        }
    }
}
