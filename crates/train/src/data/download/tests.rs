use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use super::*;
use crate::data::NAMES;

const TEXT: &[u8] = b"All the world's a stage, and all the men and women merely players.\n";

/// How a server answers.
#[derive(Clone, Copy)]
enum Answer {
    /// The text, from the byte asked for on.
    Text,
    /// The text, always from its beginning.
    Whole,
    /// Something else.
    Other,
    /// Half of the text, then the end of the connection.
    Half,
    /// No such file.
    Missing,
}

/// Serves the answers, one connection each; gives its address and what was asked.
fn serve(answers: Vec<Answer>) -> (&'static str, thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/text", listener.local_addr().unwrap());
    let server = thread::spawn(move || answers.into_iter().map(|answer| reply(&listener.accept().unwrap().0, answer)).collect());
    (Box::leak(url.into_boxed_str()), server)
}

/// Answers a request and gives its `Range`.
fn reply(mut stream: &TcpStream, answer: Answer) -> String {
    let lines = BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect::<Vec<_>>();
    let range = lines.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned)).unwrap_or_default();
    let from: usize = range.trim_end_matches('-').parse().unwrap_or(0);
    let (status, body, length) = match answer {
        Answer::Text if from > 0 => ("206 Partial Content", &TEXT[from..], TEXT.len() - from),
        Answer::Text | Answer::Whole => ("200 OK", TEXT, TEXT.len()),
        Answer::Other => ("200 OK", &b"Something else"[..], 14),
        Answer::Half => ("200 OK", &TEXT[..30], TEXT.len()),
        Answer::Missing => ("404 Not Found", &b""[..], 0),
    };
    let span = format!("Content-Range: bytes {from}-{}/{}\r\n", TEXT.len() - 1, TEXT.len());
    let span = if status.starts_with("206") { span } else { String::new() };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{span}Connection: close\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).unwrap();
    range
}

fn set(url: &'static str) -> DataSet {
    let file = RemoteFile { name: "text.txt", url, bytes: TEXT.len() as u64, sha256: sha256() };
    DataSet { name: "plays", about: "", licence: "", files: Box::leak(Box::new([file])) }
}

fn sha256() -> &'static str {
    let text = Sha256::digest(TEXT).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Box::leak(text.into_boxed_str())
}

#[allow(clippy::print_stderr)]
fn curl_is_missing() -> bool {
    let missing = Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err();
    if missing {
        eprintln!("skipped: there is no curl");
    }
    missing
}

fn get(url: &'static str, place: &Path) -> Result<PathBuf> {
    download(&set(url), place, &AtomicBool::new(false), &mut |_| ())
}

#[test]
fn every_name_has_an_entry_and_every_file_a_checksum_and_a_fixed_revision() {
    assert_eq!(DATA_SETS.iter().map(|set| set.name).collect::<Vec<_>>(), NAMES);
    for file in DATA_SETS.iter().flat_map(|set| set.files) {
        assert!(file.sha256.len() == 64 && file.sha256.chars().all(|c| c.is_ascii_hexdigit()), "{}", file.url);
        assert!(file.url.starts_with("https://") && file.url.split('/').any(|part| part.len() == 40), "{}", file.url);
    }
}

#[test]
#[allow(clippy::print_stderr)]
fn the_checksums_are_those_of_the_files_at_hand() {
    let Some(data) = std::env::var_os("REGARD_DATA").map(PathBuf::from) else {
        eprintln!("skipped: $REGARD_DATA names no folder");
        return;
    };
    for set in DATA_SETS {
        for file in set.files {
            let path = data.join(set.name).join(file.name);
            verify(&path, file).unwrap();
            assert_eq!(fs::metadata(path).unwrap().len(), file.bytes);
        }
    }
}

#[test]
fn a_data_set_arrives_as_a_whole_and_is_not_fetched_twice() {
    if curl_is_missing() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![Answer::Text]);
    let mut told = Vec::new();
    let folder = download(&set(url), place.path(), &AtomicBool::new(false), &mut |bytes| told.push(bytes)).unwrap();
    assert_eq!(fs::read(folder.join("text.txt")).unwrap(), TEXT);
    assert_eq!(told.last(), Some(&(TEXT.len() as u64)));
    assert_eq!(get(url, place.path()).unwrap(), folder);
    server.join().unwrap();
    let left: Vec<_> = fs::read_dir(place.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["plays"]);
}

#[test]
fn an_interrupted_transfer_is_continued() {
    if curl_is_missing() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![Answer::Half, Answer::Text]);
    let error = get(url, place.path()).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot fetch {url}: (18)")), "{error}");
    assert!(!place.path().join("plays").exists(), "half a data set is none");
    assert_eq!(fs::read(get(url, place.path()).unwrap().join("text.txt")).unwrap(), TEXT);
    assert_eq!(server.join().unwrap(), ["", "30-"]);
}

#[test]
fn a_server_that_cannot_continue_is_asked_for_the_whole() {
    if curl_is_missing() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![Answer::Half, Answer::Whole, Answer::Whole]);
    get(url, place.path()).unwrap_err();
    assert_eq!(fs::read(get(url, place.path()).unwrap().join("text.txt")).unwrap(), TEXT);
    assert_eq!(server.join().unwrap(), ["", "30-", ""]);
}

#[test]
fn what_is_not_the_data_set_is_refused_and_thrown_away() {
    if curl_is_missing() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![Answer::Other, Answer::Text]);
    let error = get(url, place.path()).unwrap_err();
    assert!(error.to_string().contains("has the SHA-256 ") && error.to_string().contains(sha256()), "{error}");
    get(url, place.path()).unwrap();
    server.join().unwrap();

    fs::write(place.path().join("plays/text.txt"), "changed").unwrap();
    assert!(matches!(get(url, place.path()), Err(Error::Checksum { .. })));
}

#[test]
fn no_file_and_no_server_are_errors_with_a_hint() {
    if curl_is_missing() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (url, server) = serve(vec![Answer::Missing]);
    let error = get(url, place.path()).unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
    server.join().unwrap();
    let error = get("http://127.0.0.1:1/text", place.path()).unwrap_err();
    assert!(error.to_string().starts_with("cannot fetch http://127.0.0.1:1/text: (7) "), "{error}");
    assert!(error.hint().unwrap().contains("$REGARD_DATA"));
}

#[test]
fn a_set_without_files_cannot_be_fetched() {
    let error = download(DataSet::named("embedded").unwrap(), Path::new("none"), &AtomicBool::new(false), &mut |_| ()).unwrap_err();
    assert_eq!(error.to_string(), "`NAME` must be a data set that can be fetched, got embedded");
}
