//! Every format: what is read, and what is said about files that are wrong.

use tinygptv_eval::benchmark::Benchmark;
use tinygptv_eval::formats::{load, Item};
use tinygptv_eval::scoring::{Task, Truth};

use crate::common::Folder;

fn contained(text: &str) -> Task {
    Task::Answer(Truth::Contained(text.into()))
}

fn item(id: &str, picture: std::path::PathBuf, question: &str, task: Task) -> Item {
    Item { id: id.into(), picture, question: question.into(), task }
}

#[test]
fn vsr() {
    let folder = Folder::new();
    folder.write("images/val2017/000000401552.jpg", "");
    folder.write(
        "test.jsonl",
        r#"{"image": "000000050403.jpg", "image_link": "…", "caption": "The bear is in front of the person.", "label": 1, "relation": "in front of", "annotator_id": 31, "vote_true_validator_id": [2, 6]}

{"image": "000000401552.jpg", "caption": "The umbrella is far away from the motorcycle.", "label": 0, "relation": "far away from"}
"#,
    );
    let items = folder.load(Benchmark::Vsr, "test.jsonl").unwrap().items;
    let ask = "[vqa] Based on the image, is this statement true or false? ";
    assert_eq!(
        items,
        [
            item(
                "1 000000050403.jpg",
                folder.path("images/000000050403.jpg"),
                &format!("{ask}The bear is in front of the person."),
                contained("true")
            ),
            // Line 2 is empty. The picture is where COCO's archive puts it.
            item(
                "3 000000401552.jpg",
                folder.path("images/val2017/000000401552.jpg"),
                &format!("{ask}The umbrella is far away from the motorcycle."),
                contained("false")
            ),
        ]
    );
}

#[test]
fn gqa_in_both_layouts() {
    let folder = Folder::new();
    folder.write(
        "testdev.json",
        r#"{"201307251": {"semantic": [], "imageId": "n161313", "question": "Is it overcast?", "answer": "no", "fullAnswer": "No.", "isBalanced": true},
            "05515938": {"imageId": "n1159", "question": "Who is wearing a hat?", "answer": "girl"}}"#,
    );
    folder.write("list.json", r#"[{"image": "n161313.jpg", "question": "Is it overcast?", "answer": "no"}]"#);
    let overcast = "[vqa] Based on the image, respond to this question with a short answer: Is it overcast?";
    let picture = folder.path("images/n161313.jpg");
    let items = folder.load(Benchmark::Gqa, "testdev.json").unwrap().items;
    // In the order of the file.
    assert_eq!(items[0], item("201307251", picture.clone(), overcast, contained("no")));
    assert_eq!((items.len(), items[1].id.as_str()), (2, "05515938"));
    let items = folder.load(Benchmark::Gqa, "list.json").unwrap().items;
    assert_eq!(items, [item("1 n161313.jpg", picture, overcast, contained("no"))]);
}

#[test]
fn iconqa_in_both_layouts() {
    let folder = Folder::new();
    let problem = |answer| {
        format!(
            r#"{{"question": "Odd or even?", "choices": ["odd", "even"], "answer": {answer}, "ques_type": "choose_txt", "grade": "grade1", "label": "S2"}}"#
        )
    };
    folder.write("choose_txt/102/data.json", problem(0));
    folder.write("choose_txt/9/data.json", problem(1));
    folder.write(
        "list.json",
        r#"[{"choices": ["odd", "even"], "answer": 1, "question": "Odd or even?", "image_id": "9"}]"#,
    );
    let wanted = |id: &str, right| {
        let question = "[vqa] Based on the image, respond to this question with a short answer: Odd or even?";
        let choices = vec!["odd".into(), "even".into()];
        item(id, folder.path(&format!("images/{id}/image.png")), question, Task::Rank { choices, right })
    };
    // By number, not by name.
    assert_eq!(folder.load(Benchmark::Iconvqa, "choose_txt").unwrap().items, [wanted("9", 1), wanted("102", 0)]);
    assert_eq!(folder.load(Benchmark::Iconvqa, "list.json").unwrap().items, [wanted("9", 1)]);
}

#[test]
fn vizwiz() {
    let folder = Folder::new();
    folder.write(
        "val.json",
        r#"[{"image": "VizWiz_val_00028000.jpg", "question": "What is this?", "answer_type": "other", "answerable": 1,
             "answers": [{"answer": "chair", "answer_confidence": "yes"}, {"answer": "a seat", "answer_confidence": "maybe"}]}]"#,
    );
    let question =
        "[vqa] The question is 'What is this?' Based on the image, answer the question with a single word or \
                    phrase. and reply 'unanswerable' when the provided information is insufficient";
    let people = Task::Answer(Truth::People(vec!["chair".into(), "a seat".into()]));
    assert_eq!(
        folder.load(Benchmark::Vizwiz, "val.json").unwrap().items,
        [item("1 VizWiz_val_00028000.jpg", folder.path("images/VizWiz_val_00028000.jpg"), question, people)]
    );
}

#[test]
fn hateful_memes() {
    let folder = Folder::new();
    folder.write(
        "dev_seen.jsonl",
        "{\"id\":8291,\"img\":\"img/08291.png\",\"label\":1,\"text\":\"it's them\"}\n{\"id\":\"01234\",\"img\":\"img/01234.png\",\"label\":0,\"text\":\"hi\"}",
    );
    let ask = |text| format!("This is an image writting '{text}'. Is this image hateful? Answer yes or no. Answer:");
    let truth = |hateful| Task::Answer(Truth::YesNo(hateful));
    assert_eq!(
        folder.load(Benchmark::HatefulMemes, "dev_seen.jsonl").unwrap().items,
        [
            item("8291", folder.path("images/img/08291.png"), &ask("it's them"), truth(true)),
            item("01234", folder.path("images/img/01234.png"), &ask("hi"), truth(false)),
        ]
    );
}

#[test]
fn refcoco_list() {
    let folder = Folder::new();
    folder.write(
        "refcoco_testB.json",
        r#"[{"img_id": "COCO_train2014_000000581563_3", "sents": "lower left corner darkness", "bbox": [0.0, 373.5, 137.5, 126.25], "height": 500, "width": 333}]"#,
    );
    // Left, top, width, height → edges.
    let region = Task::Answer(Truth::Region { corners: [0.0, 373.5, 137.5, 499.75], size: [333, 500] });
    assert_eq!(
        folder.load(Benchmark::Refcoco, "refcoco_testB.json").unwrap().items,
        [item(
            "1 COCO_train2014_000000581563_3",
            folder.path("images/COCO_train2014_000000581563.jpg"),
            "[refer] give me the location of lower left corner darkness",
            region
        )]
    );
}

/// The error's text names the file, the place, the problem and the format.
#[track_caller]
fn refused(benchmark: Benchmark, content: &str, parts: &[&str]) {
    let folder = Folder::new();
    folder.write("made.json", content);
    let error = format!("{:#}", folder.load(benchmark, "made.json").unwrap_err());
    for part in ["made.json", "expected"].iter().chain(parts) {
        assert!(error.contains(part), "'{part}' is not in: {error}");
    }
}

#[test]
fn wrong_files_are_told_by_place_and_format() {
    let line = r#"{"image": "1.jpg", "caption": "c", "label": 1}"#;
    refused(
        Benchmark::Vsr,
        &format!("{line}\n{{\"image\": \"1.jpg\", \"label\": 1}}"),
        &["line 2", "`caption`", "VSR"],
    );
    refused(Benchmark::Vsr, &format!("{line}\n{line}x"), &["line 2", "not valid JSON"]);
    refused(Benchmark::Vsr, r#"{"image": "1.jpg", "caption": "c", "label": 2}"#, &["line 1", "the label 2"]);
    refused(Benchmark::Gqa, r#"{"7": {"imageId": "n1", "question": "q"}}"#, &["question '7'", "`answer`"]);
    refused(Benchmark::Gqa, r#"[{"image": "n1.jpg", "question": 3, "answer": "a"}]"#, &["item 1", "string"]);
    refused(Benchmark::Gqa, "3", &["neither"]);
    refused(Benchmark::Vizwiz, r#"{"a": 1}"#, &["no list"]);
    refused(Benchmark::Vizwiz, r#"[{"image": "1.jpg", "question": "q"}]"#, &["item 1", "`answers`", "val"]);
    refused(Benchmark::Vizwiz, r#"[{"image": "1.jpg", "question": "q", "answers": []}]"#, &["item 1", "no answers"]);
    refused(Benchmark::HatefulMemes, r#"{"id": 1, "img": "1.png", "text": "t"}"#, &["line 1", "`label`", "dev_seen"]);
    refused(
        Benchmark::HatefulMemes,
        r#"{"id": [], "img": "1.png", "text": "t", "label": 0}"#,
        &["line 1", "the id []"],
    );
    let problem = r#"[{"image_id": "1", "question": "q", "choices": ["a"], "answer": 1}]"#;
    refused(Benchmark::Iconvqa, problem, &["item 1", "the answer 1 is none of 1 choices"]);
    let object = |img_id: &str, bbox: &str| {
        format!(r#"[{{"img_id": "{img_id}", "sents": "s", "bbox": {bbox}, "height": 5, "width": 3}}]"#)
    };
    refused(Benchmark::Refcoco, &object("COCO_1", "[1, 2, 3]"), &["item 1", "length"]);
    refused(Benchmark::Refcoco, &object("COCO_1", "[1, 2, -3, 4]"), &["item 1", "negative size"]);
    refused(Benchmark::Refcoco, &object("COCO", "[1, 2, 3, 4]"), &["item 1", "object's number"]);
}

#[test]
fn folders_of_problems_are_checked_too() {
    let folder = Folder::new();
    folder.write("choose_txt/1/image.png", "");
    let error = folder.load(Benchmark::Iconvqa, "choose_txt").unwrap_err().to_string();
    assert!(error.contains("problem '1'") && error.contains("no data.json"), "{error}");
    folder.write(
        "choose_img/1/data.json",
        r#"{"question": "q", "choices": ["choice_0.png"], "answer": 0, "ques_type": "choose_img"}"#,
    );
    let error = folder.load(Benchmark::Iconvqa, "choose_img").unwrap_err().to_string();
    assert!(error.contains("data.json") && error.contains("of the kind choose_img"), "{error}");
}

#[test]
fn empty_and_doubled_and_missing() {
    let folder = Folder::new();
    folder.write("empty.jsonl", "\n");
    assert!(folder.load(Benchmark::Vsr, "empty.jsonl").unwrap_err().to_string().contains("no items"));
    let line = "{\"id\":1,\"img\":\"1.png\",\"label\":1,\"text\":\"t\"}\n";
    folder.write("twice.jsonl", line.repeat(2));
    assert!(folder.load(Benchmark::HatefulMemes, "twice.jsonl").unwrap_err().to_string().contains("'1' twice"));
    assert!(folder.load(Benchmark::Gqa, "none.json").unwrap_err().to_string().contains("none.json"));
    let split = load(Benchmark::HatefulMemes, &folder.at("twice.jsonl", Some("val")));
    assert!(split.unwrap_err().to_string().contains("leave --split out"));
}

#[test]
fn another_file_is_another_dataset() {
    let folder = Folder::new();
    let line = |label| format!("{{\"image\": \"1.jpg\", \"caption\": \"c\", \"label\": {label}}}\n");
    let hash = |content: String| {
        folder.write("test.jsonl", content);
        folder.load(Benchmark::Vsr, "test.jsonl").unwrap().sha256
    };
    assert_eq!(hash(line(1)), hash(line(1)));
    assert_ne!(hash(line(0)), hash(line(1)));
}
