//! The program itself, with the demo model, on pictures of coloured shapes whose truth is known.

use std::fmt::Write;
use std::fs;
use std::process::{Command, Output};

use serde_json::{json, Value};
use tinygptv::Image;
use tinygptv_eval::results::{read, Record};

use crate::common::{repository, Folder};

/// Runs the program with the demo model.
fn evaluate(folder: &Folder, benchmark: &str, annotations: &str, more: &[&str]) -> Output {
    let model = |name: &str| repository("assets/demo").join(name);
    Command::new(env!("CARGO_BIN_EXE_tinygptv-eval"))
        .arg(benchmark)
        .arg("--decoder")
        .arg(model("tinygptv-demo-f16.gguf"))
        .arg("--vision")
        .arg(model("tinygptv-demo-vision-f16.gguf"))
        .arg("--annotations")
        .arg(folder.path(annotations))
        .arg("-o")
        .arg(folder.path("out.jsonl"))
        .args(["--threads", "1"])
        .args(more)
        .output()
        .unwrap()
}

/// The golden answers are of the template that the demo model was trained with.
const DEMO: [&str; 2] = ["--template", "demo"];

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn succeeds(output: Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

#[track_caller]
fn fails(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr).lines().last().unwrap().to_owned();
    assert!(error.starts_with("error: "), "{error}");
    error
}

/// The golden scenes' questions of a kind: picture, question and the record.
fn golden(task: &str, beginning: &str) -> Vec<(String, String, Value)> {
    let lines = fs::read_to_string(repository("tests/golden/scenes/questions.jsonl")).unwrap();
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let get = |r: &Value, key: &str| r[key].as_str().unwrap().to_owned();
    let found: Vec<_> = records
        .filter(|r| r["task"] == task && get(r, "question").starts_with(beginning))
        .map(|r| (get(&r, "image"), get(&r, "question")[beginning.len()..].to_owned(), r))
        .collect();
    assert!(found.len() >= 3, "{} golden questions of {task}", found.len());
    found
}

fn scene(name: &str) -> Vec<u8> {
    fs::read(repository("tests/golden/scenes").join(name)).unwrap()
}

fn right(records: &[Record]) -> usize {
    records.iter().filter(|r| r.score == Some(1.0)).count()
}

#[test]
fn statements_about_shapes() {
    let folder = Folder::new();
    let (mut lines, mut wanted) = (String::new(), 0);
    for (image, caption, golden) in golden("vsr", "[vqa] Based on the image, is this statement true or false? ") {
        folder.write(&image, scene(&image));
        let label = u32::from(golden["expected"] == "true");
        writeln!(lines, "{}", json!({"image": image, "caption": caption, "label": label, "relation": "?"})).unwrap();
        wanted += usize::from(golden["answer"] == golden["expected"]);
    }
    folder.write("test.jsonl", &lines);
    let n = lines.lines().count();

    // First some, then all; the pictures lie beside the statements.
    let table = succeeds(evaluate(&folder, "vsr", "test.jsonl", &[&DEMO[..], &["--limit", "2"]].concat()));
    assert!(table.contains(&format!("vsr: the score is of 2 of {n} items")), "{table}");
    let table = succeeds(evaluate(&folder, "vsr", "test.jsonl", &DEMO));
    let results = read(&folder.path("out.jsonl")).unwrap();
    assert_eq!(results.records.len(), n);
    // The same answers as the reference's, so the same ones right.
    assert_eq!(right(&results.records), wanted, "{:#?}", results.records);
    assert!(table.contains(&format!("{:.1} %", 100.0 * wanted as f64 / n as f64)), "{table}");

    // Nothing is left to do, and the summary says the same.
    let again = succeeds(evaluate(&folder, "vsr", "test.jsonl", &[&DEMO[..], &["--strict"]].concat()));
    assert_eq!(again, table);
    let summary = Command::new(env!("CARGO_BIN_EXE_tinygptv-eval"))
        .arg("summary")
        .args([folder.path("out.jsonl"), folder.path("out.jsonl")])
        .output();
    let twice = succeeds(summary.unwrap());
    assert_eq!(twice.lines().nth(1), table.lines().nth(1));
    assert_eq!(twice.lines().nth(2), table.lines().nth(1));

    let error = fails(evaluate(&folder, "vsr", "test.jsonl", &[]));
    assert!(error.contains("template: demo there, benchmark now"), "{error}");
    let error = fails(evaluate(&folder, "gqa", "test.jsonl", &[]));
    assert!(error.contains("test.jsonl"), "{error}");
}

#[test]
fn places_of_shapes() {
    let folder = Folder::new();
    let (mut entries, mut wanted) = (Vec::new(), 0);
    for (i, (image, phrase, golden)) in golden("refer", "[refer] give me the location of ").into_iter().enumerate() {
        let id = format!("COCO_train2014_0000000000{}", image.trim_end_matches(".png"));
        folder.write(&format!("images/{id}.jpg"), scene(&image));
        // Boxes are fractions of the picture's sides.
        let picture = Image::decode(&scene(&image)).unwrap();
        let (width, height) = (picture.width(), picture.height());
        let corner = |n: usize, side: u32| f64::from(side) * golden["box"][n].as_f64().unwrap();
        let (x, y) = (corner(0, width), corner(1, height));
        let bbox = [x, y, corner(2, width) - x, corner(3, height) - y];
        let img_id = format!("{id}_{i}");
        entries.push(json!({"img_id": img_id, "sents": phrase, "bbox": bbox, "height": height, "width": width}));
        wanted += 1;
    }
    // One whose picture is lost, one whose picture is damaged.
    for (n, phrase) in [("98", "the lost star"), ("99", "the damaged star")] {
        let img_id = format!("COCO_train2014_0000000000{n}_0");
        entries.push(json!({"img_id": img_id, "sents": phrase, "bbox": [0, 0, 9, 9], "height": 112, "width": 112}));
    }
    folder.write("images/COCO_train2014_000000000099.jpg", "no picture");
    folder.write("refcoco_val.json", json!(entries).to_string());

    let images = folder.path("images");
    let images = [&DEMO[..], &["--images", images.to_str().unwrap()]].concat();
    succeeds(evaluate(&folder, "refcoco", "refcoco_val.json", &images));
    let results = read(&folder.path("out.jsonl")).unwrap();
    assert_eq!(results.records.len(), entries.len());
    // The demo model finds every shape of the goldens.
    assert_eq!(right(&results.records), wanted, "{:#?}", results.records);
    let found = results.records.iter().filter_map(|r| r.iou).filter(|iou| *iou > 0.5).count();
    assert_eq!(found, wanted);
    let errors: Vec<&str> = results.records.iter().filter_map(|r| r.error.as_deref()).collect();
    assert_eq!(errors.len(), 2);
    assert!(errors[0].contains("98.jpg") && errors[1].contains("99.jpg"), "{errors:?}");

    let strict = [&images[..], &["--strict"]].concat();
    let error = fails(evaluate(&folder, "refcoco", "refcoco_val.json", &strict));
    assert!(error.contains("98_0'"), "{error}");
    fs::remove_dir_all(folder.path("images")).unwrap();
    let error = fails(evaluate(&folder, "refcoco", "refcoco_val.json", &images));
    assert!(error.contains("no folder of pictures"), "{error}");
    let error = fails(evaluate(&folder, "refcoco", "refcoco_val.json", &[]));
    assert!(error.contains("none of the dataset's pictures is there") && error.contains("--images"), "{error}");
}

#[test]
fn choosing_among_candidates() {
    let folder = Folder::new();
    let ask = "[vqa] Based on the image, respond to this question with a short answer: ";
    let colors = ["red", "green", "blue", "yellow", "purple", "orange"];
    let kinds = ["circle", "square", "triangle", "star"];
    let mut n = 0;
    for (image, question, golden) in golden("vqa", ask) {
        let expected = golden["expected"].as_str().unwrap();
        let Some(choices) = [&colors[..], &kinds[..]].into_iter().find(|c| c.contains(&expected)) else { continue };
        let answer = choices.iter().position(|&c| c == expected);
        let problem = json!({"question": question, "choices": choices, "answer": answer, "ques_type": "choose_txt"});
        folder.write(&format!("choose_txt/{n}/data.json"), problem.to_string());
        folder.write(&format!("choose_txt/{n}/image.png"), scene(&image));
        n += 1;
    }
    assert!(n >= 3, "{n} problems");
    succeeds(evaluate(&folder, "iconvqa", "choose_txt", &[]));
    let results = read(&folder.path("out.jsonl")).unwrap();
    assert_eq!(results.header.template, "rank");
    // What it generates rightly it also finds likeliest.
    assert_eq!(right(&results.records), n, "{:#?}", results.records);
}
