//! RefCOCO's original files: a pickle of phrases, in the protocols of Python 2 and 3, beside COCO's instances.

use tinygptv_eval::benchmark::Benchmark;
use tinygptv_eval::formats::{load, Item};
use tinygptv_eval::scoring::{Task, Truth};

use crate::common::Folder;

/// Two refs: one of split val with two phrases, one of split testA with one.
const PROTOCOL_0: &str = "(lp0
(dp1
S'sent_ids'
p2
(lp3
I0
aI1
asS'file_name'
p4
S'COCO_train2014_000000000007_2.jpg'
p5
sS'ann_id'
p6
I70
sS'ref_id'
p7
I0
sS'image_id'
p8
I7
sS'split'
p9
S'val'
p10
sS'sentences'
p11
(lp12
(dp13
S'tokens'
p14
(lp15
S'red'
p16
aS'star'
p17
asS'raw'
p18
S'RED STAR'
p19
sS'sent_id'
p20
I0
sS'sent'
p21
S'red star'
p22
sa(dp23
g20
I1
sg21
Vpur\\u00e9e
p24
sasS'category_id'
p25
I1
sa(dp26
g6
I71
sg8
I7
sg9
S'testA'
p27
sg11
(lp28
(dp29
g20
I2
sg21
S\"it's here\"
p30
sasa.";

/// The ref of split testA alone, as protocol 2 has it.
const PROTOCOL_2: &[u8] = b"\x80\x02]q\x00}q\x01(X\x06\x00\x00\x00ann_idq\x02KGX\x08\x00\x00\x00image_idq\x03K\x07\
    X\x05\x00\x00\x00splitq\x04X\x05\x00\x00\x00testAq\x05X\x09\x00\x00\x00sentencesq\x06]q\x07}q\x08(\
    X\x07\x00\x00\x00sent_idq\tK\x02X\x04\x00\x00\x00sentq\nX\x09\x00\x00\x00it's hereq\x0buaua.";

const INSTANCES: &str = r#"{"info": {}, "categories": [{"id": 1, "name": "star"}],
    "images": [{"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "width": 112, "height": 96, "license": 1}],
    "annotations": [{"id": 70, "image_id": 7, "bbox": [10, 20, 30, 40], "segmentation": [[1.5, 2.5]], "category_id": 1},
                    {"id": 71, "image_id": 7, "bbox": [1, 2, 3, 4], "iscrowd": 0}]}"#;

fn item(folder: &Folder, id: &str, phrase: &str, corners: [f64; 4]) -> Item {
    Item {
        id: id.into(),
        picture: folder.path("images/COCO_train2014_000000000007.jpg"),
        question: format!("[refer] give me the location of {phrase}"),
        task: Task::Answer(Truth::Region { corners, size: [112, 96] }),
    }
}

#[test]
fn phrases_of_a_split() {
    let folder = Folder::new();
    folder.write("instances.json", INSTANCES);
    folder.write("refs(unc).p", PROTOCOL_0);
    let read = |split| load(Benchmark::RefcocoPlus, &folder.at("refs(unc).p", Some(split))).unwrap();
    let val = read("val");
    let corners = [10.0, 20.0, 40.0, 60.0];
    assert_eq!(val.items, [item(&folder, "0", "red star", corners), item(&folder, "1", "purée", corners)]);
    assert_eq!(val.name, "refs(unc).p, val");
    let test_a = [item(&folder, "2", "it's here", [1.0, 2.0, 4.0, 6.0])];
    assert_eq!(read("testA").items, test_a);
    folder.write("refs(unc).p", PROTOCOL_2);
    assert_eq!(read("testA").items, test_a);
}

#[test]
fn what_is_missing_is_told() {
    let folder = Folder::new();
    let refused = |split, parts: &[&str]| {
        let error = format!("{:#}", load(Benchmark::Refcoco, &folder.at("refs(unc).p", split)).unwrap_err());
        parts.iter().for_each(|part| assert!(error.contains(part), "'{part}' is not in: {error}"));
    };
    folder.write("refs(unc).p", PROTOCOL_0);
    refused(None, &["several splits", "--split", "val, testA"]);
    refused(Some("testB"), &["no split 'testB'", "val, testA"]);
    refused(Some("val"), &["instances.json", "beside"]);
    folder.write("instances.json", r#"{"images": []}"#);
    refused(Some("val"), &["instances.json", "`annotations`", "expected"]);
    folder.write("instances.json", INSTANCES.replace("\"id\": 70", "\"id\": 72"));
    refused(Some("val"), &["instances.json", "no annotation 70"]);
    folder.write("instances.json", INSTANCES.replace("\"id\": 7,", "\"id\": 8,"));
    refused(Some("val"), &["instances.json", "no image 7"]);
    folder.write("refs(unc).p", PROTOCOL_0.replace("S'split'", "S'spilt'"));
    refused(Some("val"), &["item 1", "no 'split'", "expected"]);
    folder.write("refs(unc).p", "cos\nsystem\n(S'ls'\ntR.");
    refused(Some("val"), &["refs(unc).p", "'os.system'", "nothing was run"]);
}
