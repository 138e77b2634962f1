//! The answer's stream: pieces of any bytes, stop texts.

use tinygptv::stream::AnswerStream;

use crate::bytes::Bytes;

/// Streams the input in pieces; the released text is what was generated, up to the stop text and trimmed.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let stops: Vec<String> = (0..bytes.byte() % 4).map(|_| bytes.text()).collect();
    let mut stream = AnswerStream::new(&stops);
    let mut released = String::new();
    let mut generated = Vec::new();
    let mut stopped = false;
    while !bytes.is_empty() {
        let n = usize::from(bytes.byte() % 8);
        let piece = bytes.take(n);
        let out = stream.push(piece);
        released += &out.text;
        assert!(!stopped || (out.stopped && out.text.is_empty()), "text after the stop text");
        if !stopped {
            generated.extend_from_slice(piece);
        }
        stopped = out.stopped;
    }
    released += &stream.finish();
    assert_eq!(stopped, stream.stopped_at().is_some());

    let whole = String::from_utf8_lossy(&generated);
    let expected = match stream.stopped_at() {
        Some(at) => {
            let stop = &stream.seen()[at..];
            assert!(stops.iter().any(|s| !s.is_empty() && stop.starts_with(s)), "no stop text at {at}");
            stream.seen()[..at].trim()
        }
        None => whole.trim(),
    };
    assert_eq!(released, expected);
    // U+FFFD may come from the last bytes, which are known only at the end.
    for stop in stops.iter().filter(|s| !s.is_empty() && !s.contains('\u{fffd}')) {
        assert!(!released.contains(stop), "{stop:?} is in {released:?}");
    }
}
