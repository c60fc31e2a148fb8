use super::*;

const TEXT: &str = "To be, or\nnot — to be\n";

fn tiny_llama() -> Tokenizer {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../goldens/lamina/tiny-llama/tokenizer.json");
    Tokenizer::hugging_face(&path).unwrap()
}

fn all() -> [Tokenizer; 4] {
    [Tokenizer::Byte, Tokenizer::char(TEXT), Tokenizer::word(&[TEXT]), tiny_llama()]
}

#[test]
fn byte_and_character_tokens_give_back_their_text() {
    for tokenizer in [Tokenizer::Byte, Tokenizer::char(TEXT)] {
        let ids = tokenizer.encode(TEXT).unwrap();
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab()));
        assert_eq!(tokenizer.decode(&ids), TEXT);
    }
}

#[test]
fn characters_are_numbered_in_their_order() {
    let tokenizer = Tokenizer::char("cabba");
    assert_eq!(tokenizer.vocab(), 3);
    assert_eq!(tokenizer.encode("abc").unwrap(), [0, 1, 2]);
}

#[test]
fn words_end_each_line_and_the_unknown_is_a_word() {
    let tokenizer = Tokenizer::word(&[" a b \n\n b c \n"]);
    assert_eq!(tokenizer.encode(" a b \n\n b c \n").unwrap(), [0, 1, 2, 2, 1, 3, 2]);
    assert_eq!(tokenizer.encode("z a\n").unwrap(), [4, 0, 2]);
    assert_eq!(tokenizer.decode(&[0, 1, 2, 4]), "a b \n<unk> ");
    assert_eq!(tokenizer.encode_prompt("a b").unwrap(), [0, 1]);
    assert_eq!(tokenizer.encode_prompt("a b\n").unwrap(), [0, 1, 2]);
}

#[test]
fn ends_cover_the_text_in_order() {
    for tokenizer in all() {
        let encoded = tokenizer.encode_with_ends(TEXT).unwrap();
        assert_eq!(encoded.ids.len(), encoded.ends.len());
        assert!(encoded.ends.is_sorted(), "{}", tokenizer.unit());
        assert_eq!(encoded.ends.last(), Some(&TEXT.len()), "{}", tokenizer.unit());
    }
}

#[test]
fn a_tokeniser_survives_its_file() {
    for tokenizer in all() {
        let file = serde_json::to_string(&tokenizer).unwrap();
        let read: Tokenizer = serde_json::from_str(&file).unwrap();
        assert_eq!(read.vocab(), tokenizer.vocab());
        assert_eq!(read.encode(TEXT).unwrap(), tokenizer.encode(TEXT).unwrap());
    }
}

#[test]
fn an_unknown_character_is_named_with_its_place() {
    let error = Tokenizer::char("abc").encode("abé").unwrap_err();
    assert_eq!(error.to_string(), "the vocabulary has no character 'é' (at character 2 of the text)");
}

#[test]
fn numbers_that_are_no_token_become_the_replacement_character() {
    assert_eq!(Tokenizer::char("ab").decode(&[0, 7, 1]), "a\u{fffd}b");
    assert_eq!(Tokenizer::Byte.decode(&[0xc3, 65]), "\u{fffd}A");
}

#[test]
fn an_unknown_tokeniser_is_answered_with_the_known_ones() {
    let corpus = Corpus { name: "x".into(), train: "a".into(), valid: "b".into(), test: None, tokenizer: "byte" };
    let error = Tokenizer::named("chars", &corpus).unwrap_err();
    assert_eq!(error.to_string(), "`data.tokenizer` must be `byte`, `char`, `word` or the path of a tokenizer.json, got `chars`");
    assert_eq!(error.hint().unwrap(), "did you mean `char`?");
    let error = Tokenizer::named("none/tokenizer.json", &corpus).unwrap_err();
    assert!(error.to_string().starts_with("cannot read none/tokenizer.json: "), "{error}");
}

#[test]
fn a_file_that_is_no_tokeniser_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.json");
    std::fs::write(&path, "{}").unwrap();
    let error = Tokenizer::hugging_face(&path).unwrap_err();
    assert!(error.to_string().starts_with(&format!("tokenizer {}: ", path.display())), "{error}");
}
