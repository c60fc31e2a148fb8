use std::{env, fs, path::PathBuf};

use super::*;

fn config(path: &std::path::Path) -> DataConfig {
    DataConfig::new(path.to_str().unwrap())
}

#[test]
fn the_end_of_a_single_file_validates_whatever_its_characters_are() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.txt");
    fs::write(&path, "äöüßé12345").unwrap();
    let corpus = load(&DataConfig { valid_fraction: 0.3, ..config(&path) }).unwrap();
    assert_eq!((corpus.train.as_str(), corpus.valid.as_str(), corpus.test), ("äöüßé12", "345", None));
}

#[test]
fn a_folder_is_read_in_the_order_of_its_names_without_hidden_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("b")).unwrap();
    for (name, text) in [("c.txt", "3"), ("a.txt", "1"), ("b/x.txt", "2"), (".hidden.txt", "no"), ("README.md", "no")] {
        fs::write(dir.path().join(name), text.repeat(10)).unwrap();
    }
    let corpus = load(&config(dir.path())).unwrap();
    assert_eq!(corpus.train + &corpus.valid, format!("{}\n{}\n{}", "1".repeat(10), "2".repeat(10), "3".repeat(10)));
}

#[test]
fn splits_are_taken_as_they_are_under_either_name() {
    for names in [["train.txt", "valid.txt", "test.txt"], ["wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens"]] {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let corpus = load(&config(dir.path())).unwrap();
        assert_eq!([corpus.train, corpus.valid, corpus.test.unwrap()], names);
    }
}

#[test]
fn split_folders_are_read_whole_and_a_missing_validation_split_is_cut_from_the_training_text() {
    let dir = tempfile::tempdir().unwrap();
    for (folder, file, text) in [("train", "1.txt", "aaaaa"), ("train", "2.txt", "bbbb"), ("test", "1.txt", "t")] {
        fs::create_dir_all(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join(file), text).unwrap();
    }
    let corpus = load(&config(dir.path())).unwrap();
    assert_eq!((corpus.train.as_str(), corpus.valid.as_str(), corpus.test.as_deref()), ("aaaaa\nbbb", "b", Some("t")));
}

#[test]
fn the_book_with_the_highest_number_validates() {
    let dir = tempfile::tempdir().unwrap();
    for number in ["2701", "145", "2600"] {
        fs::write(dir.path().join(format!("{number}.txt")), number).unwrap();
    }
    fs::write(dir.path().join("README.md"), "about").unwrap();
    let (train, valid, test) = files::read_books(dir.path()).unwrap().resolve(0.1);
    assert_eq!((train.as_str(), valid.as_str(), test), ("145\n2600", "2701", None));
}

#[test]
fn bad_files_are_named_with_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("latin1.txt"), b"caf\xe9").unwrap();
    fs::write(path("empty.txt"), " \n").unwrap();
    fs::create_dir(path("nothing")).unwrap();
    let message = |name: &str| load(&config(&path(name))).unwrap_err().to_string();
    assert_eq!(message("latin1.txt"), format!("{} is not UTF-8 text: invalid byte at offset 3", path("latin1.txt").display()));
    assert_eq!(message("empty.txt"), format!("{} holds no text", path("empty.txt").display()));
    assert_eq!(message("nothing"), format!("{} holds no text", path("nothing").display()));
    assert!(message("missing.txt").starts_with(&format!("cannot read {}: ", path("missing.txt").display())));
    let error = load(&DataConfig { valid_fraction: 1.0, ..DataConfig::new("embedded") }).unwrap_err();
    assert_eq!(error.to_string(), "`data.valid_fraction` must be in (0, 1), got 1");
}

#[test]
fn a_byte_order_mark_is_not_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text.txt");
    fs::write(&path, "\u{feff}abcdefghij").unwrap();
    assert_eq!(load(&config(&path)).unwrap().train, "abcdefghi");
}

#[test]
fn the_embedded_text_holds_the_page_of_every_mechanism() {
    let corpus = load(&DataConfig::new("embedded")).unwrap();
    let text = corpus.train + &corpus.valid;
    for entry in regard::registry::MECHANISMS {
        assert!(text.contains(entry.page), "{}", entry.id);
    }
}

/// The folder of a real data set, or a line that says that there is none.
#[allow(clippy::print_stderr)]
fn real(name: &str) -> Option<PathBuf> {
    let path = env::var_os("REGARD_DATA").map(|data| PathBuf::from(data).join(name)).filter(|path| path.exists());
    if path.is_none() {
        eprintln!("skipped: $REGARD_DATA/{name} is not there");
    }
    path
}

#[test]
fn tiny_shakespeare_has_the_published_sizes() {
    if real("tinyshakespeare").is_none() {
        return;
    }
    let corpus = load(&DataConfig::new("tinyshakespeare")).unwrap();
    assert_eq!((corpus.train.len(), corpus.valid.len()), (1_003_854, 111_540));
    let tokenizer = crate::Tokenizer::char(&(corpus.train + &corpus.valid));
    assert_eq!(tokenizer.vocab(), 65);
}

#[test]
fn wikitext_2_has_the_published_counts() {
    if real("wikitext-2").is_none() {
        return;
    }
    let corpus = load(&DataConfig::new("wikitext-2")).unwrap();
    let splits = [Some(&corpus.train), Some(&corpus.valid), corpus.test.as_ref()];
    let texts: Vec<&str> = splits.into_iter().flatten().map(String::as_str).collect();
    let tokenizer = crate::Tokenizer::word(&texts);
    assert_eq!(tokenizer.vocab(), 33_278);
    let counts: Vec<usize> = texts.iter().map(|text| tokenizer.encode(text).unwrap().len()).collect();
    assert_eq!(counts[..2], [2_088_628, 217_646]);
    assert!(counts.get(2).is_none_or(|&test| test == 245_569));
}

#[test]
fn the_last_of_the_real_books_validates() {
    if real("gutenberg").is_none() {
        return;
    }
    let corpus = load(&DataConfig::new("gutenberg")).unwrap();
    assert!(corpus.train.contains("Rostóv") || corpus.train.contains("Rostov"));
    assert!(corpus.valid.contains("Ishmael") && !corpus.train.contains("Ishmael"));
}
