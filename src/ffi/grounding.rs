//! Boxes in answers.

use std::ffi::{c_char, CString};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::boundary::{boundary, require_out, require_text, working, write_result, Handle, SizedStruct};
use super::error::{c_string, tgv_status};
use super::image::tgv_image;
use crate::drawing::draw_boxes;
use crate::error::{Error, Result};
use crate::grounding::{GroundedBox, GroundingParser};

/// The boxes of an answer, found while it streams. Any thread may use it; calls take turns.
pub struct tgv_boxes {
    _opaque: [u8; 0],
}

pub(super) struct BoxesCell {
    state: Mutex<State>,
}

struct State {
    parser: GroundingParser,
    found: Vec<(GroundedBox, CString)>,
}

impl Handle for tgv_boxes {
    type Inner = BoxesCell;
    const NAME: &'static str = "list of boxes";
}

impl BoxesCell {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// One box, in pixels of the picture. Initialise with TGV_BOX_INIT.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct tgv_box {
    /// sizeof(tgv_box), set by the INIT macro.
    pub struct_size: usize,
    /// The phrase that the box belongs to, UTF-8, "" for none. Belongs to the list of boxes.
    pub label: *const c_char,
    /// Left edge.
    pub x0: f32,
    /// Upper edge.
    pub y0: f32,
    /// Right edge, not left of x0.
    pub x1: f32,
    /// Lower edge, not above y0.
    pub y1: f32,
}

// SAFETY: a pointer and numbers.
unsafe impl SizedStruct for tgv_box {
    const NAME: &'static str = "tgv_box";
    const FIRST_SIZE: usize = size_of::<tgv_box>();
}

/// Starts a list of the boxes that an answer about `image` names. Feed it the answer with tgv_boxes_push, in one piece or
/// from the text callback.
///
/// @param out_boxes  the new, empty list, to be freed with tgv_boxes_free; untouched on failure
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_boxes_create(image: *const tgv_image, out_boxes: *mut *mut tgv_boxes) -> tgv_status {
    boundary(|| {
        require_out(out_boxes, "out_boxes")?;
        // SAFETY: the caller's promises of the C documentation.
        let image = unsafe { tgv_image::share(image) }?;
        let state = State { parser: GroundingParser::new(image.width(), image.height()), found: Vec::new() };
        // SAFETY: checked above.
        unsafe { out_boxes.write(tgv_boxes::give(Arc::new(BoxesCell { state: Mutex::new(state) }))) };
        Ok(())
    })
}

/// Takes the next piece of the answer. A box `{<x0><y0><x1><y1>}`, with or without a phrase `<p>...</p>` in front, is in the list
/// as soon as its last number has come. Text that makes no box is passed over.
///
/// @param text  UTF-8
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_boxes_push(boxes: *mut tgv_boxes, text: *const c_char) -> tgv_status {
    working(|| {
        // SAFETY: the caller's promises of the C documentation.
        let (cell, text) = unsafe { (tgv_boxes::share(boxes)?, require_text(text, "text")?) };
        let mut state = cell.lock();
        let new = state.parser.push(text);
        state.found.extend(new.into_iter().map(|b| {
            let label = c_string(&b.label);
            (b, label)
        }));
        Ok(())
    })
}

/// How many boxes there are so far; 0 for NULL.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_boxes_count(boxes: *const tgv_boxes) -> usize {
    // SAFETY: the caller's promise.
    unsafe { tgv_boxes::share(boxes) }.map_or(0, |cell| cell.lock().found.len())
}

/// Tells a box.
///
/// @param index    below tgv_boxes_count
/// @param out_box  initialised with TGV_BOX_INIT; untouched on failure. Its label stays valid as long as the list.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_boxes_get(boxes: *const tgv_boxes, index: usize, out_box: *mut tgv_box) -> tgv_status {
    boundary(|| {
        // SAFETY: the caller's promises of the C documentation.
        let cell = unsafe { tgv_boxes::share(boxes) }?;
        let state = cell.lock();
        let (b, label) = state.found.get(index).ok_or_else(|| {
            Error::InvalidArgument(format!("there is no box {index}, the list has {}", state.found.len()))
        })?;
        let value = tgv_box { struct_size: 0, label: label.as_ptr(), x0: b.x0, y0: b.y0, x1: b.x1, y1: b.y1 };
        // SAFETY: the caller's promises of the C documentation.
        unsafe { write_result(out_box, &value) }
    })
}

/// Draws the boxes and their labels onto a copy of the picture and writes it as a PNG file.
///
/// @param image  the picture, as passed to tgv_boxes_create or of the same size
/// @param path   UTF-8; an existing file is replaced
///
/// Errors: TGV_ERROR_IO, _OUT_OF_MEMORY, _INVALID_ARGUMENT (also in a build without PNG), _INVALID_UTF8.
///
/// Thread-safety: any thread.
#[no_mangle]
pub unsafe extern "C" fn tgv_boxes_draw(
    boxes: *const tgv_boxes,
    image: *const tgv_image,
    path: *const c_char,
) -> tgv_status {
    working(|| -> Result<()> {
        // SAFETY: the caller's promises of the C documentation.
        let (cell, image, path) =
            unsafe { (tgv_boxes::share(boxes)?, tgv_image::share(image)?, require_text(path, "path")?) };
        let all: Vec<GroundedBox> = cell.lock().found.iter().map(|(b, _)| b.clone()).collect();
        draw_boxes(&image, &all)?.save_png(Path::new(path))
    })
}

/// Frees a list of boxes, and with it their labels; NULL does nothing.
///
/// Thread-safety: any thread, once.
#[no_mangle]
pub unsafe extern "C" fn tgv_boxes_free(boxes: *mut tgv_boxes) {
    // SAFETY: the caller's promise.
    unsafe { tgv_boxes::take_back(boxes) }
}
