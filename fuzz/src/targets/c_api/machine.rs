//! The machine that runs a program of C calls: its handles, the calls, and what must hold after each.

use std::ffi::{c_char, c_void, CStr, CString};
use std::path::Path;
use std::ptr;
use std::sync::OnceLock;

use tempfile::TempDir;

use super::arguments::*;
use super::callbacks::*;
use crate::header::*;
use crate::model;

/// Handles of each kind that a program may hold.
const SLOTS: usize = 4;

/// A session and what its progress callback gets.
struct SessionSlot {
    session: *mut tgv_session,
    listener: Box<Listener>,
}

/// The state of a program.
pub struct Machine<'a> {
    source: Source<'a>,
    folder: &'static Path,
    /// The first is shared by all programs and never freed.
    models: [*mut tgv_model; SLOTS],
    images: [*mut tgv_image; SLOTS],
    embeddings: [*mut tgv_embedding; SLOTS],
    boxes: [*mut tgv_boxes; SLOTS],
    sessions: [SessionSlot; SLOTS],
    /// Numbers of added callbacks; 0 is none.
    log_callbacks: [u64; SLOTS],
}

/// An instruction after its function.
#[derive(Clone, Copy)]
pub struct Arguments {
    handles: u8,
    nulls: u8,
    n: [u8; 5],
}

impl Arguments {
    fn first(&self) -> usize {
        usize::from(self.handles) % SLOTS
    }

    fn second(&self) -> usize {
        usize::from(self.handles) / SLOTS % SLOTS
    }

    /// The pointer, or NULL where the instruction wants the `i`th argument NULL.
    fn or_null<T>(&self, i: u8, pointer: *mut T) -> *mut T {
        // Most instructions want none, or few calls would get further than their arguments.
        match self.nulls >= 192 && self.nulls >> i & 1 == 1 {
            true => ptr::null_mut(),
            false => pointer,
        }
    }

    fn text_or_null(&self, i: u8, text: &CStr) -> *const c_char {
        self.or_null(i, text.as_ptr().cast_mut())
    }

    fn short(&self) -> u16 {
        u16::from_le_bytes([self.n[3], self.n[4]])
    }

    fn first_four(&self) -> [u8; 4] {
        [self.n[0], self.n[1], self.n[2], self.n[3]]
    }
}

/// A function of the header and how it is called.
pub type Call = (&'static str, fn(&mut Machine<'_>, Arguments));

/// Every function of the header.
pub const CALLS: [Call; 48] = [
    ("tgv_session_create", |m, a| m.session_create(a)),
    ("tgv_session_ask", |m, a| m.session_ask(a)),
    ("tgv_image_from_pixels", |m, a| m.image_from_pixels(a)),
    ("tgv_session_add_image", |m, a| m.session_add_image(a)),
    ("tgv_session_reset", |m, a| m.check(unsafe { tgv_session_reset(m.session(a)) })),
    ("tgv_session_free", |m, a| m.session_free(a)),
    ("tgv_session_rank", |m, a| m.session_rank(a)),
    ("tgv_session_ask_each", |m, a| m.session_ask_each(a)),
    ("tgv_session_set_grammar", |m, a| m.session_set_grammar(a)),
    ("tgv_session_set_answers", |m, a| m.session_set_answers(a)),
    ("tgv_session_set_sampling", |m, a| m.session_set_sampling(a)),
    ("tgv_session_statistics", |m, a| m.session_statistics(a)),
    ("tgv_session_cancel", |m, a| unsafe { tgv_session_cancel(m.session(a)) }),
    ("tgv_session_add_embedding", |m, a| m.session_add_embedding(a)),
    ("tgv_embedding_encode", |m, a| m.embedding_encode(a)),
    ("tgv_embedding_encode_each", |m, a| m.embedding_encode_each(a)),
    ("tgv_embedding_from_values", |m, a| m.embedding_from_values(a)),
    ("tgv_embedding_get_size", |m, a| m.embedding_get_size(a)),
    ("tgv_embedding_copy", |m, a| m.embedding_copy(a)),
    ("tgv_embedding_save", |m, a| m.embedding_save(a)),
    ("tgv_embedding_load", |m, a| m.embedding_load(a)),
    ("tgv_embedding_free", |m, a| {
        let embedding = std::mem::replace(&mut m.embeddings[a.first()], ptr::null_mut());
        unsafe { tgv_embedding_free(embedding) };
    }),
    ("tgv_image_from_memory", |m, a| m.image_from_memory(a)),
    ("tgv_image_from_file", |m, a| m.image_from_file(a)),
    ("tgv_image_get_size", |m, a| m.image_get_size(a)),
    ("tgv_image_free", |m, a| {
        let image = std::mem::replace(&mut m.images[a.first()], ptr::null_mut());
        unsafe { tgv_image_free(image) };
    }),
    ("tgv_boxes_create", |m, a| m.boxes_create(a)),
    ("tgv_boxes_push", |m, a| m.boxes_push(a)),
    ("tgv_boxes_count", |m, a| assert!(unsafe { tgv_boxes_count(m.boxes(a)) } < NO_SIZE)),
    ("tgv_boxes_get", |m, a| m.boxes_get(a)),
    ("tgv_boxes_draw", |m, a| m.boxes_draw(a)),
    ("tgv_boxes_free", |m, a| {
        let boxes = std::mem::replace(&mut m.boxes[a.first()], ptr::null_mut());
        unsafe { tgv_boxes_free(boxes) };
    }),
    ("tgv_model_load", |m, a| m.model_load(a)),
    ("tgv_model_plan", |m, a| m.model_plan(a)),
    ("tgv_model_get_info", |m, a| m.model_get_info(a)),
    ("tgv_model_description", |m, a| m.is_text(unsafe { tgv_model_description(m.model(a)) })),
    ("tgv_model_template_count", |m, a| m.template_count(a)),
    ("tgv_model_template_name", |m, a| {
        let index = usize::from(a.short()).wrapping_sub(usize::from(a.n[0] == 255));
        m.is_text(unsafe { tgv_model_template_name(m.model(a), index) });
    }),
    ("tgv_model_count_tokens", |m, a| m.model_count_tokens(a)),
    ("tgv_model_get_cache_size", |m, a| m.model_get_cache_size(a)),
    ("tgv_model_free", |m, a| m.model_free(a)),
    ("tgv_set_log_callback", |m, a| {
        let callback = (a.n[0] % 2 == 0).then_some(on_log as unsafe extern "C" fn(_, _, _));
        m.check(unsafe { tgv_set_log_callback(callback, ptr::null_mut()) });
    }),
    ("tgv_last_error", |m, _| m.is_text(unsafe { tgv_last_error() })),
    ("tgv_status_name", |m, a| m.is_text(unsafe { tgv_status_name(i32::from(a.n[0]) + 7000 - i32::from(a.n[1])) })),
    ("tgv_version", |m, _| m.is_text(unsafe { tgv_version() })),
    ("tgv_abi_version", |_, _| assert_eq!(unsafe { tgv_abi_version() }, TGV_ABI_VERSION as u32)),
    ("tgv_add_log_callback", |m, a| m.add_log_callback(a)),
    ("tgv_remove_log_callback", |m, a| {
        let id = std::mem::replace(&mut m.log_callbacks[a.first()], 0);
        let status = unsafe { tgv_remove_log_callback(id) };
        assert_eq!(status, if id == 0 { TGV_ERROR_INVALID_ARGUMENT } else { TGV_OK });
    }),
];

/// What an out parameter of a handle holds before the call.
fn untouched<T>() -> *mut T {
    ptr::without_provenance_mut(0x5a5a_5a58)
}

/// Stands for a count, a number or a struct's size that no call gives.
const NO_SIZE: usize = usize::MAX - 5;

/// Most floats of an embedding that a program makes: 4 rows of the tiny model.
const MOST_VALUES: usize = 4 * 32;

fn shared_model() -> *mut tgv_model {
    static MODEL: OnceLock<usize> = OnceLock::new();
    *MODEL.get_or_init(|| {
        let [decoder, vision] = [&model::tiny().decoder, &model::tiny().vision].map(|p| path_text(p));
        let params = tgv_model_params { threads: 1, embedding_cache_mb: 1, ..Default::default() };
        let mut params = Roomy::new(params, 0);
        let mut model = ptr::null_mut();
        let status = unsafe { tgv_model_load(decoder.as_ptr(), vision.as_ptr(), params.pointer(), &mut model) };
        assert_eq!(status, TGV_OK, "the tiny model loads");
        model.expose_provenance()
    }) as *mut tgv_model
}

fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path()
}

fn path_text(path: &Path) -> CString {
    CString::new(path.to_str().expect("a path of plain text")).expect("no NUL")
}

impl<'a> Machine<'a> {
    /// For a program that may use all of its input as data.
    pub fn new(input: &'a [u8]) -> Machine<'a> {
        let mut models = [ptr::null_mut(); SLOTS];
        models[0] = shared_model();
        Machine {
            source: Source { input },
            folder: folder(),
            models,
            images: [ptr::null_mut(); SLOTS],
            embeddings: [ptr::null_mut(); SLOTS],
            boxes: [ptr::null_mut(); SLOTS],
            sessions: std::array::from_fn(|_| SessionSlot {
                session: ptr::null_mut(),
                listener: Box::new(Listener::new(0, ptr::null_mut())),
            }),
            log_callbacks: [0; SLOTS],
        }
    }

    /// Runs one instruction.
    pub fn call(&mut self, instruction: [u8; super::INSTRUCTION]) {
        let [function, handles, nulls, n @ ..] = instruction;
        let (_, call) = CALLS[usize::from(function) % CALLS.len()];
        call(self, Arguments { handles, nulls, n });
    }

    /// Frees everything, models first or last.
    pub fn finish(mut self, order: u8) {
        let models = self.models.iter_mut().skip(1).map(|m| std::mem::replace(m, ptr::null_mut())).collect::<Vec<_>>();
        // SAFETY: each handle is freed once.
        unsafe {
            if !order.is_multiple_of(2) {
                models.iter().for_each(|&m| tgv_model_free(m));
            }
            self.images.iter().for_each(|&h| tgv_image_free(h));
            self.embeddings.iter().for_each(|&h| tgv_embedding_free(h));
            self.boxes.iter().for_each(|&h| tgv_boxes_free(h));
            self.sessions.iter().for_each(|s| tgv_session_free(s.session));
            if order.is_multiple_of(2) {
                models.iter().for_each(|&m| tgv_model_free(m));
            }
            tgv_set_log_callback(None, ptr::null_mut());
            self.log_callbacks.iter().filter(|&&id| id != 0).for_each(|&id| {
                tgv_remove_log_callback(id);
            });
        }
    }

    fn add_log_callback(&mut self, a: Arguments) {
        let slot = a.first();
        if self.log_callbacks[slot] != 0 {
            return;
        }
        let callback = (!a.n[0].is_multiple_of(4)).then_some(on_log as unsafe extern "C" fn(_, _, _));
        let mut id = 0;
        let status = unsafe { tgv_add_log_callback(callback, ptr::null_mut(), a.or_null(1, &mut id)) };
        self.check(status);
        assert_eq!(id != 0, status == TGV_OK);
        self.log_callbacks[slot] = id;
    }

    // ---- What holds after every call

    fn is_text(&self, text: *const c_char) {
        assert!(!text.is_null());
        // SAFETY: all texts of the library are terminated.
        let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
        assert!(std::str::from_utf8(bytes).is_ok(), "{bytes:?}");
    }

    fn check(&self, status: tgv_status) {
        self.ok(status);
    }

    /// Whether the call succeeded; a failure must be one of the documented ones, and explained.
    fn ok(&self, status: tgv_status) -> bool {
        if status == TGV_OK {
            return true;
        }
        // SAFETY: never NULL.
        let text = unsafe { CStr::from_ptr(tgv_last_error()) }.to_str().expect("UTF-8");
        let known = TGV_ERROR_INVALID_ARGUMENT..=TGV_ERROR_BAD_EMBEDDING_FILE;
        assert!(known.contains(&status) && status != TGV_ERROR_INTERNAL, "{status}: {text}");
        assert!(!text.is_empty(), "{status} without a message");
        false
    }

    /// Whether the call made a handle; on failure the out parameter is as it was.
    fn made<T>(&self, status: tgv_status, out: *mut T) -> bool {
        let ok = self.ok(status);
        assert_eq!(out == untouched(), !ok, "an out parameter after {status}");
        ok
    }

    /// A result struct after a call: nothing of it has changed after a failure, and never its size.
    fn filled(&self, status: tgv_status, before: &[u8], after: &Roomy) {
        let after = after.snapshot();
        match self.ok(status) {
            true => assert_eq!(before[..size_of::<usize>()], after[..size_of::<usize>()], "its size"),
            false => assert!(before == after, "a struct has changed in a failed call"),
        }
    }

    // ---- Handles

    fn model(&self, a: Arguments) -> *mut tgv_model {
        a.or_null(0, self.models[a.second()])
    }

    fn image(&self, a: Arguments) -> *mut tgv_image {
        a.or_null(1, self.images[a.second()])
    }

    fn boxes(&self, a: Arguments) -> *mut tgv_boxes {
        a.or_null(0, self.boxes[a.first()])
    }

    fn session(&self, a: Arguments) -> *mut tgv_session {
        a.or_null(0, self.sessions[a.first()].session)
    }

    fn text(&self, a: Arguments) -> CString {
        self.source.text(a.n[0], a.n[1])
    }

    fn put_image(&mut self, a: Arguments, status: tgv_status, image: *mut tgv_image) {
        if self.made(status, image) {
            let old = std::mem::replace(&mut self.images[a.first()], image);
            // SAFETY: nobody has it any more.
            unsafe { tgv_image_free(old) };
        }
    }

    fn put_embedding(&mut self, slot: usize, embedding: *mut tgv_embedding) {
        let old = std::mem::replace(&mut self.embeddings[slot], embedding);
        // SAFETY: nobody has it any more.
        unsafe { tgv_embedding_free(old) };
    }

    /// After a call whose callbacks may have freed the session.
    fn forget_if_freed(&mut self, a: Arguments, freed: bool) -> bool {
        let slot = &mut self.sessions[a.first()];
        let freed = freed || slot.listener.freed;
        if freed {
            slot.session = ptr::null_mut();
            slot.listener.freed = false;
        }
        freed
    }

    // ---- Models

    fn model_load(&mut self, a: Arguments) {
        let pair = model::tiny();
        let (mut decoder, mut vision) = (path_text(&pair.decoder), path_text(&pair.vision));
        match a.n[4] % 32 {
            29 => std::mem::swap(&mut decoder, &mut vision),
            30 => decoder = self.text(a),
            31 => vision = self.text(a),
            _ => {}
        }
        let vision = if a.n[4] % 4 == 1 { ptr::null() } else { vision.as_ptr() };
        let mut listener = Listener::new(a.n[2], ptr::null_mut());
        let params = tgv_model_params {
            on_progress: (a.n[0] % 4 == 1).then_some(on_progress),
            user_data: listener.user_data(),
            ..model_params(a.first_four())
        };
        let mut params = Roomy::new(params, a.n[3]);
        let mut model = untouched();
        let status = unsafe {
            tgv_model_load(
                a.text_or_null(1, &decoder),
                vision,
                a.or_null(2, params.pointer()),
                a.or_null(3, &mut model),
            )
        };
        if self.made(status, model) {
            let slot = 1 + a.first() % (SLOTS - 1);
            let old = std::mem::replace(&mut self.models[slot], model);
            unsafe { tgv_model_free(old) };
        }
    }

    fn model_free(&mut self, a: Arguments) {
        let slot = 1 + a.first() % (SLOTS - 1);
        let model = std::mem::replace(&mut self.models[slot], ptr::null_mut());
        unsafe { tgv_model_free(model) };
    }

    fn model_plan(&mut self, a: Arguments) {
        let pair = model::tiny();
        let (decoder, vision) = (path_text(&pair.decoder), path_text(&pair.vision));
        let mut model_params = Roomy::new(model_params(a.first_four()), a.n[3]);
        let session_params = tgv_session_params {
            context: number(a.n[0]),
            kv_type: if a.n[1] < 200 { i32::from(a.n[1] % 2) } else { number(a.n[1]) },
            ..Default::default()
        };
        let mut session_params = Roomy::new(session_params, a.n[4]);
        let mut plan = Roomy::new(tgv_memory_plan::default(), a.n[2]);
        let before = plan.snapshot();
        let status = unsafe {
            tgv_model_plan(
                a.text_or_null(0, &decoder),
                a.text_or_null(1, &vision),
                a.or_null(2, model_params.pointer()),
                a.or_null(3, session_params.pointer()),
                a.or_null(4, plan.pointer()),
            )
        };
        self.filled(status, &before, &plan);
    }

    fn model_get_info(&mut self, a: Arguments) {
        let mut info = Roomy::new(tgv_model_info::default(), a.n[0]);
        let before = info.snapshot();
        let status = unsafe { tgv_model_get_info(self.model(a), a.or_null(1, info.pointer())) };
        self.filled(status, &before, &info);
    }

    fn template_count(&mut self, a: Arguments) {
        let model = self.model(a);
        let count = unsafe { tgv_model_template_count(model) };
        for index in 0..count {
            let name = unsafe { CStr::from_ptr(tgv_model_template_name(model, index)) };
            assert!(!name.is_empty(), "template {index} of {count} has no name");
        }
    }

    fn model_count_tokens(&mut self, a: Arguments) {
        let text = self.text(a);
        let mut count = NO_SIZE;
        let status =
            unsafe { tgv_model_count_tokens(self.model(a), a.text_or_null(1, &text), a.or_null(2, &mut count)) };
        match self.ok(status) {
            true => assert!(count <= text.as_bytes().len()),
            false => assert_eq!(count, NO_SIZE),
        }
    }

    fn model_get_cache_size(&mut self, a: Arguments) {
        let (mut count, mut bytes) = (0, 0);
        self.check(unsafe {
            tgv_model_get_cache_size(self.model(a), a.or_null(1, &mut count), a.or_null(2, &mut bytes))
        });
    }

    // ---- Images

    fn image_from_file(&mut self, a: Arguments) {
        let path = match a.n[2] % 4 {
            0 => path_text(&model::repository().join("tests/golden/pictures/gif-plain-23x9.gif")),
            1 => path_text(&self.folder.join("drawn.png")),
            2 => path_text(self.folder),
            _ => self.text(a),
        };
        let mut image = untouched();
        let status = unsafe { tgv_image_from_file(a.text_or_null(0, &path), a.or_null(1, &mut image)) };
        self.put_image(a, status, image);
    }

    fn image_from_memory(&mut self, a: Arguments) {
        let mut data = b"P6 2 2 255\nabcdefghijkl".to_vec();
        if a.n[0] % 2 == 1 {
            data = self.source.data(a.short()).to_vec();
        }
        let size = if a.n[2] == 255 { usize::MAX } else { data.len() };
        let mut image = untouched();
        let status =
            unsafe { tgv_image_from_memory(a.or_null(0, data.as_mut_ptr().cast()), size, a.or_null(1, &mut image)) };
        self.put_image(a, status, image);
    }

    fn image_from_pixels(&mut self, a: Arguments) {
        let mut pixels = [0x77u8; 4096];
        for (pixel, byte) in pixels.iter_mut().zip(self.source.input) {
            *pixel = *byte;
        }
        let side = |n: u8| if n < 250 { 1 + u32::from(n % 16) } else { number(n) as u32 };
        let stride = if a.n[2] < 128 { 0 } else { number(a.n[2]) as usize };
        let format = if a.n[3] < 200 { 1 + i32::from(a.n[3] % 5) } else { number(a.n[3]) };
        let mut image = untouched();
        let status = unsafe {
            tgv_image_from_pixels(
                a.or_null(0, pixels.as_mut_ptr().cast::<c_void>()),
                if a.n[4] == 0 { pixels.len() } else { usize::from(a.n[4]) },
                side(a.n[0]),
                side(a.n[1]),
                stride,
                format,
                a.or_null(1, &mut image),
            )
        };
        self.put_image(a, status, image);
    }

    fn image_get_size(&mut self, a: Arguments) {
        let (mut width, mut height) = (0, 0);
        let status = unsafe { tgv_image_get_size(self.image(a), a.or_null(2, &mut width), a.or_null(3, &mut height)) };
        if self.ok(status) && a.nulls < 192 {
            assert!(width > 0 && height > 0);
        }
    }

    // ---- Embeddings

    fn embedding_encode(&mut self, a: Arguments) {
        let mut listener = Listener::new(a.n[0], ptr::null_mut());
        let params = tgv_encode_params {
            on_progress: (a.n[0] % 2 == 1).then_some(on_progress),
            user_data: listener.user_data(),
            ..Default::default()
        };
        let mut params = Roomy::new(params, a.n[1]);
        let mut embedding = untouched();
        let model = a.or_null(0, self.models[usize::from(a.n[2]) % SLOTS]);
        let status = unsafe {
            tgv_embedding_encode(model, self.image(a), a.or_null(2, params.pointer()), a.or_null(3, &mut embedding))
        };
        if self.made(status, embedding) {
            self.put_embedding(a.first(), embedding);
        }
    }

    fn embedding_encode_each(&mut self, a: Arguments) {
        let mut images: Vec<*const tgv_image> = self.images.iter().map(|&i| i.cast_const()).collect();
        if a.n[0] % 4 != 3 {
            images.retain(|i| !i.is_null());
        }
        let mut embeddings = [untouched(); SLOTS];
        let count = if a.n[1] == 255 { usize::MAX } else { images.len() };
        let status = unsafe {
            tgv_embedding_encode_each(
                self.model(a),
                a.or_null(1, images.as_mut_ptr()),
                count,
                ptr::null(),
                a.or_null(3, embeddings.as_mut_ptr()),
            )
        };
        let made = if self.ok(status) { images.len() } else { 0 };
        for (slot, &embedding) in embeddings.iter().enumerate() {
            assert_eq!(embedding == untouched(), slot >= made, "embedding {slot} of {made}");
            if slot < made {
                self.put_embedding(slot, embedding);
            }
        }
    }

    fn embedding_from_values(&mut self, a: Arguments) {
        let mut values: Vec<f32> = (0..MOST_VALUES).map(|i| float(a.n[i % 3])).collect();
        let count = match a.n[4] {
            0..=199 => 32 * (1 + usize::from(a.n[4]) % 4),
            200..=250 => usize::from(a.n[3]) % MOST_VALUES,
            n => usize::MAX >> (n - 251),
        };
        let mut embedding = untouched();
        let status = unsafe {
            tgv_embedding_from_values(
                self.model(a),
                a.or_null(1, values.as_mut_ptr()),
                count,
                a.or_null(2, &mut embedding),
            )
        };
        if self.made(status, embedding) {
            self.put_embedding(a.first(), embedding);
        }
    }

    fn embedding(&self, a: Arguments) -> *mut tgv_embedding {
        a.or_null(1, self.embeddings[a.second()])
    }

    fn embedding_get_size(&mut self, a: Arguments) {
        let (mut rows, mut width) = (NO_SIZE, NO_SIZE);
        let status =
            unsafe { tgv_embedding_get_size(self.embedding(a), a.or_null(2, &mut rows), a.or_null(3, &mut width)) };
        if !self.ok(status) {
            assert_eq!((rows, width), (NO_SIZE, NO_SIZE));
        }
    }

    fn embedding_copy(&mut self, a: Arguments) {
        let (mut rows, mut width) = (0, 0);
        let embedding = self.embedding(a);
        self.check(unsafe { tgv_embedding_get_size(embedding, &mut rows, &mut width) });
        let count = if a.n[0] < 128 { rows * width } else { usize::from(a.n[1]) };
        // The call must not write where it refuses; where it does not, there is room.
        let mut values = vec![f32::NAN; count];
        let status = unsafe { tgv_embedding_copy(embedding, a.or_null(2, values.as_mut_ptr()), count) };
        let ok = self.ok(status);
        assert!(values.iter().all(|v| v.is_finite() == ok));
    }

    fn embedding_save(&mut self, a: Arguments) {
        let path = match a.n[0] % 8 {
            7 => path_text(&self.folder.join("no/such/folder")),
            6 => path_text(self.folder),
            _ => path_text(&self.folder.join("saved.tgvemb")),
        };
        let model = a.or_null(0, self.models[a.first()]);
        self.check(unsafe { tgv_embedding_save(model, self.embedding(a), a.text_or_null(2, &path)) });
    }

    fn embedding_load(&mut self, a: Arguments) {
        let saved = self.folder.join("saved.tgvemb");
        let damaged = self.folder.join("damaged.tgvemb");
        let path = match a.n[0] % 4 {
            2 => self.text(a),
            3 => {
                let mut bytes = std::fs::read(&saved).unwrap_or_default();
                if let Some(n) = bytes.len().checked_sub(1) {
                    bytes[usize::from(a.short()) % (n + 1)] ^= a.n[2] | 1;
                }
                std::fs::write(&damaged, bytes).expect("room for it");
                path_text(&damaged)
            }
            _ => path_text(&saved),
        };
        let mut embedding = untouched();
        let status =
            unsafe { tgv_embedding_load(self.model(a), a.text_or_null(1, &path), a.or_null(2, &mut embedding)) };
        if self.made(status, embedding) {
            assert!(a.n[0] % 4 != 3, "a damaged embedding is loaded");
            self.put_embedding(a.first(), embedding);
        }
    }

    // ---- Boxes

    fn boxes_create(&mut self, a: Arguments) {
        let mut boxes = untouched();
        let status = unsafe { tgv_boxes_create(self.image(a), a.or_null(2, &mut boxes)) };
        if self.made(status, boxes) {
            let old = std::mem::replace(&mut self.boxes[a.first()], boxes);
            unsafe { tgv_boxes_free(old) };
        }
    }

    fn boxes_push(&mut self, a: Arguments) {
        let text = self.text(a);
        self.check(unsafe { tgv_boxes_push(self.boxes(a), a.text_or_null(1, &text)) });
    }

    fn boxes_get(&mut self, a: Arguments) {
        let mut found = Roomy::new(tgv_box::default(), a.n[0]);
        let before = found.snapshot();
        let index = if a.n[1] == 255 { usize::MAX } else { a.n[1].into() };
        let status = unsafe { tgv_boxes_get(self.boxes(a), index, a.or_null(1, found.pointer())) };
        self.filled(status, &before, &found);
        if status == TGV_OK {
            self.is_text(unsafe { (*found.pointer::<tgv_box>()).label });
        }
    }

    fn boxes_draw(&mut self, a: Arguments) {
        let path = path_text(&self.folder.join(if a.n[0] == 255 { "no/such/folder" } else { "drawn.png" }));
        self.check(unsafe { tgv_boxes_draw(self.boxes(a), self.image(a), a.text_or_null(2, &path)) });
    }

    // ---- Sessions

    fn session_create(&mut self, a: Arguments) {
        let [system, turn, image, name] =
            [a.n[0], a.n[1], a.n[2], a.n[3]].map(|n| self.source.text(n.rotate_left(1), n));
        let stops = self.source.texts(a.n[1], a.n[2]);
        let mut stop_texts = pointers(&stops, a.n[4] == 250);
        let mut sampling = Roomy::new(sampling(a.first_four()), a.n[4]);
        let mut listener = Box::new(Listener::new(a.n[3], ptr::null_mut()));
        let optional = |bit: u8, text: &CStr| if a.n[4] >> bit & 1 == 1 { text.as_ptr() } else { ptr::null() };
        let params = tgv_session_params {
            context: if a.n[0] < 200 { 0 } else { number(a.n[0].rotate_left(1)) },
            threads: if a.n[1] < 240 { 0 } else { number(a.n[1]) },
            max_new_tokens: if a.n[0] < 128 { 4 } else { number(a.n[2]) },
            when_full: i32::from(a.n[2] % 2),
            kv_type: i32::from(a.n[3] % 2),
            template_name: optional(0, &name),
            system_text: optional(1, &system),
            template_text: optional(2, &turn),
            image_text: optional(3, &image),
            stop_texts: if a.n[4] >> 4 & 1 == 1 { stop_texts.as_mut_ptr() } else { ptr::null() },
            stop_text_count: if a.n[4] >> 4 & 1 == 1 { stops.len() } else { usize::from(a.n[4] == 64) },
            sampling: if a.n[4] >> 5 & 1 == 1 { sampling.pointer() } else { ptr::null() },
            on_progress: Some(on_progress),
            user_data: listener.user_data(),
            on_phase: (a.n[3] % 2 == 1).then_some(on_phase),
            ..Default::default()
        };
        let mut params = Roomy::new(params, a.n[4].rotate_left(4));
        let mut session = untouched();
        let status =
            unsafe { tgv_session_create(self.model(a), a.or_null(1, params.pointer()), a.or_null(2, &mut session)) };
        if self.made(status, session) {
            listener.session = session;
            let old = std::mem::replace(&mut self.sessions[a.first()], SessionSlot { session, listener });
            unsafe { tgv_session_free(old.session) };
        }
    }

    fn session_free(&mut self, a: Arguments) {
        let session = std::mem::replace(&mut self.sessions[a.first()].session, ptr::null_mut());
        unsafe { tgv_session_free(session) };
    }

    fn session_add_image(&mut self, a: Arguments) {
        let status = unsafe { tgv_session_add_image(self.session(a), self.image(a)) };
        self.check(status);
        self.forget_if_freed(a, false);
    }

    fn session_add_embedding(&mut self, a: Arguments) {
        let session = a.or_null(0, self.sessions[a.first()].session);
        self.check(unsafe { tgv_session_add_embedding(session, self.embedding(a)) });
    }

    fn session_ask(&mut self, a: Arguments) {
        let question = self.text(a);
        let session = self.session(a);
        let mut listener = Listener::new(a.n[2], session);
        let mut answer: *const c_char = untouched::<c_char>();
        let callback = (a.n[3] % 4 != 3).then_some(on_text as unsafe extern "C" fn(_, _, _) -> i32);
        let user_data = listener.user_data();
        let status = unsafe {
            tgv_session_ask(session, a.text_or_null(1, &question), callback, user_data, a.or_null(2, &mut answer))
        };
        let ok = self.ok(status);
        let freed = self.forget_if_freed(a, listener.freed);
        let told = answer != untouched::<c_char>();
        assert!(ok || !told, "an out parameter after {status}");
        if told && !freed {
            self.is_text(answer);
            let answer = unsafe { CStr::from_ptr(answer) }.to_bytes();
            assert!(callback.is_none() || answer == listener.heard, "the pieces make another answer");
        }
    }

    fn session_ask_each(&mut self, a: Arguments) {
        let questions = self.source.texts(a.n[0], a.n[1]);
        let mut questions = pointers(&questions, a.n[3] == 255);
        let session = self.session(a);
        let mut listener = Listener::new(a.n[2], session);
        let callback = (a.n[4] % 4 != 3).then_some(on_answer as unsafe extern "C" fn(_, _, _, _, _) -> i32);
        let count = if a.n[4] == 255 { usize::MAX } else { questions.len() };
        let user_data = listener.user_data();
        let status =
            unsafe { tgv_session_ask_each(session, a.or_null(1, questions.as_mut_ptr()), count, callback, user_data) };
        self.check(status);
        self.forget_if_freed(a, listener.freed);
    }

    fn session_rank(&mut self, a: Arguments) {
        let question = self.text(a);
        let candidates = self.source.texts(a.n[2], a.n[3]);
        let mut candidates = pointers(&candidates, a.n[3] == 255);
        let end = self.source.text(a.n[4], a.n[3]);
        let params = tgv_rank_params {
            end_text: if a.n[4] % 2 == 1 { end.as_ptr() } else { ptr::null() },
            no_bos: if a.n[4] < 200 { i32::from(a.n[4] / 2 % 2) } else { number(a.n[4]) },
            ..Default::default()
        };
        let mut params = Roomy::new(params, a.n[4]);
        let mut losses = [f32::NAN; 8];
        let count = if a.n[4] == 255 { usize::MAX } else { candidates.len() };
        let status = unsafe {
            tgv_session_rank(
                self.session(a),
                a.text_or_null(1, &question),
                a.or_null(2, candidates.as_mut_ptr()),
                count,
                a.or_null(3, params.pointer()),
                a.or_null(4, losses.as_mut_ptr()),
            )
        };
        let filled = if self.ok(status) { candidates.len() } else { 0 };
        assert!(losses.iter().enumerate().all(|(i, l)| l.is_finite() == (i < filled)), "{losses:?} of {filled}");
    }

    fn session_set_grammar(&mut self, a: Arguments) {
        let grammar = self.source.text(if a.n[0] < 100 { 10 + a.n[0] % 4 } else { a.n[0] }, a.n[1]);
        self.check(unsafe { tgv_session_set_grammar(self.session(a), a.text_or_null(1, &grammar)) });
    }

    fn session_set_answers(&mut self, a: Arguments) {
        let answers = self.source.texts(a.n[0], a.n[1]);
        let mut answers = pointers(&answers, a.n[3] == 255);
        let count = if a.n[4] == 255 { usize::MAX } else { answers.len() };
        self.check(unsafe { tgv_session_set_answers(self.session(a), a.or_null(1, answers.as_mut_ptr()), count) });
    }

    fn session_set_sampling(&mut self, a: Arguments) {
        let mut params = Roomy::new(sampling(a.first_four()), a.n[4]);
        self.check(unsafe { tgv_session_set_sampling(self.session(a), a.or_null(1, params.pointer())) });
    }

    fn session_statistics(&mut self, a: Arguments) {
        let mut statistics = Roomy::new(tgv_statistics::default(), a.n[0]);
        let before = statistics.snapshot();
        let status = unsafe { tgv_session_statistics(self.session(a), a.or_null(1, statistics.pointer())) };
        self.filled(status, &before, &statistics);
        if status == TGV_OK {
            let told = unsafe { *statistics.pointer::<tgv_statistics>() };
            if told.struct_size >= size_of::<tgv_statistics>() {
                assert!(told.context_used <= told.context_size && told.context_size > 0);
            }
        }
    }
}
