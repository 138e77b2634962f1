// tinygptv for C++17: the functions of tinygptv.h as classes. Header only; link with the same library.
//
// - Objects own what they stand for, can be moved and not copied, and may be destroyed in any order.
// - What fails throws tgv::Error. Built without exceptions (-fno-exceptions, or TGV_NO_EXCEPTIONS defined before this header
//   is included), the same functions return tgv::Result<T>, which holds a T or an Error; with exceptions Result<T> is T.
// - Texts are UTF-8 without zero bytes. Constants (TGV_...), figures and rules for threads are those of tinygptv.h.
// - Callbacks return true to go on. What they throw ends the call and comes out of it, but for the log callback.
// - An object must not be moved, assigned or destroyed by a callback of its own call.

#ifndef TINYGPTV_HPP
#define TINYGPTV_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tinygptv.h"

#if !defined(TGV_NO_EXCEPTIONS) && !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#define TGV_NO_EXCEPTIONS
#endif

namespace tgv {

// Parts of one program may be built with exceptions and others without: each has its own names.
#ifdef TGV_NO_EXCEPTIONS
inline namespace results {
#define TGV_HPP_FAIL(error) return (error)
#else
inline namespace exceptions {
#define TGV_HPP_FAIL(error) throw(error)
#endif

/// Why a call failed: a status TGV_ERROR_... and what() in words.
class Error : public std::runtime_error {
public:
    Error(tgv_status status, const std::string &what) : std::runtime_error(what), status_(status) {}

    tgv_status status() const noexcept { return status_; }

    /// The failure that the library has just told this thread of.
    static Error last(tgv_status status) { return Error(status, tgv_last_error()); }

private:
    tgv_status status_;
};

#ifdef TGV_NO_EXCEPTIONS
/// What a call gave: a value, or the reason why there is none.
template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}

    bool has_value() const noexcept { return content_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }

    /// The value. There must be one.
    T &operator*() & noexcept { return *std::get_if<0>(&content_); }
    const T &operator*() const & noexcept { return *std::get_if<0>(&content_); }
    T &&operator*() && noexcept { return std::move(*std::get_if<0>(&content_)); }
    T *operator->() noexcept { return std::get_if<0>(&content_); }
    const T *operator->() const noexcept { return std::get_if<0>(&content_); }

    /// Why there is no value. There must be none.
    const Error &error() const noexcept { return *std::get_if<1>(&content_); }

private:
    std::variant<T, Error> content_;
};

/// Whether a call without a value succeeded.
template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}

    bool has_value() const noexcept { return !error_; }
    explicit operator bool() const noexcept { return has_value(); }

    /// Why it failed. It must have failed.
    const Error &error() const noexcept { return *error_; }

private:
    std::optional<Error> error_;
};
#else
template <class T>
using Result = T;
#endif

/// Gets the fraction done, 0 to 1. False stops the call, which then fails with TGV_ERROR_CANCELLED.
using ProgressCallback = std::function<bool(float fraction)>;
/// What a session is doing (TGV_PHASE_...), the fraction done, and the milliseconds left, -1 while it is too early to tell.
using PhaseCallback = std::function<bool(std::int32_t phase, float fraction, float remaining_ms)>;

/// Gets the next piece of an answer: whole characters, valid during the call. False ends the answer here.
using TextCallback = std::function<bool(std::string_view text)>;

/// Gets a complete answer, the index of its question and why it ended (TGV_FINISH_...). False leaves the other questions
/// unanswered.
using AnswerCallback = std::function<bool(std::size_t index, std::string_view answer, std::int32_t finish)>;

/// Gets a message and its level (TGV_LOG_...), from any thread. What it throws is dropped.
using LogCallback = std::function<void(std::int32_t level, std::string_view text)>;

namespace detail {

inline Result<void> check(tgv_status status) {
    if (status != TGV_OK) TGV_HPP_FAIL(Error::last(status));
    return Result<void>();
}

/// What a call gave, if it succeeded.
template <class T>
Result<T> give(tgv_status status, T value) {
    if (status != TGV_OK) TGV_HPP_FAIL(Error::last(status));
    return value;
}

inline Error zero_byte() {
    return Error(TGV_ERROR_INVALID_ARGUMENT, "a text has a zero byte in it; C would end it there");
}

/// A text as C takes it, or NULL.
class Text {
public:
    explicit Text(std::string_view text) : text_(text) {}
    explicit Text(const std::optional<std::string> &text) : text_(text.value_or("")), is_null_(!text) {}

    bool valid() const noexcept { return text_.find('\0') == std::string::npos; }
    const char *get() const noexcept { return is_null_ ? nullptr : text_.c_str(); }

private:
    std::string text_;
    bool is_null_ = false;
};

/// A list of texts as C takes it.
class Texts {
public:
    explicit Texts(const std::vector<std::string> &texts) {
        pointers_.reserve(texts.size());
        for (const std::string &text : texts) {
            valid_ = valid_ && text.find('\0') == std::string::npos;
            pointers_.push_back(text.c_str());
        }
    }

    bool valid() const noexcept { return valid_; }
    const char *const *get() const noexcept { return pointers_.data(); }
    std::size_t size() const noexcept { return pointers_.size(); }

private:
    std::vector<const char *> pointers_;
    bool valid_ = true;
};

/// A function on its way through C. What it throws waits here until the call has returned.
template <class... Arguments>
class Callback {
public:
    explicit Callback(std::function<bool(Arguments...)> function) : function_(std::move(function)) {}

    explicit operator bool() const noexcept { return static_cast<bool>(function_); }

    /// C's answer: 0 goes on.
    std::int32_t operator()(Arguments... arguments) noexcept {
#ifdef TGV_NO_EXCEPTIONS
        return function_(arguments...) ? 0 : 1;
#else
        try {
            return function_(arguments...) ? 0 : 1;
        } catch (...) {
            thrown_ = std::current_exception();
            return 1;
        }
#endif
    }

    /// To be called after every call that it was passed to.
    void rethrow() {
#ifndef TGV_NO_EXCEPTIONS
        if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
#endif
    }

private:
    std::function<bool(Arguments...)> function_;
#ifndef TGV_NO_EXCEPTIONS
    std::exception_ptr thrown_;
#endif
};

using Progress = Callback<float>;
using Pieces = Callback<std::string_view>;
using Answers = Callback<std::size_t, std::string_view, std::int32_t>;
using Phases = Callback<std::int32_t, float, float>;

/// The callbacks that a session keeps.
struct Listeners {
    Progress progress;
    Phases phases;

    void rethrow() {
        progress.rethrow();
        phases.rethrow();
    }
};

inline std::int32_t on_session_progress(float fraction, void *listeners) {
    return static_cast<Listeners *>(listeners)->progress(fraction);
}

inline std::int32_t on_phase(std::int32_t phase, float fraction, float remaining_ms, void *listeners) {
    return static_cast<Listeners *>(listeners)->phases(phase, fraction, remaining_ms);
}

inline std::int32_t on_progress(float fraction, void *progress) { return (*static_cast<Progress *>(progress))(fraction); }

inline std::int32_t on_text(const char *text, std::size_t length, void *pieces) {
    return (*static_cast<Pieces *>(pieces))(std::string_view(text, length));
}

inline std::int32_t on_answer(std::size_t index, const char *answer, std::size_t length, std::int32_t finish,
                              void *answers) {
    return (*static_cast<Answers *>(answers))(index, std::string_view(answer, length), finish);
}

inline void on_log(std::int32_t level, const char *text, void *callback) noexcept {
#ifdef TGV_NO_EXCEPTIONS
    (*static_cast<LogCallback *>(callback))(level, text);
#else
    try {
        (*static_cast<LogCallback *>(callback))(level, text);
    } catch (...) {
    }
#endif
}

/// Owns a handle of the C API.
template <class T, void (*Free)(T *)>
class Handle {
public:
    /// Takes over a handle that came from C.
    explicit Handle(T *handle) noexcept : handle_(handle) {}

    /// The handle, for functions of the C API; null after a move.
    T *get() const noexcept { return handle_.get(); }

private:
    struct Deleter {
        void operator()(T *handle) const noexcept { Free(handle); }
    };
    std::unique_ptr<T, Deleter> handle_;
};

} // namespace detail

/// The library's version, such as "1.2.3".
inline std::string_view version() { return tgv_version(); }

/// The library's ABI version.
inline std::uint32_t abi_version() noexcept { return tgv_abi_version(); }

/// Whether the library has the ABI that this header describes.
inline bool is_compatible() noexcept { return tgv_abi_version() == TGV_ABI_VERSION; }

/// The name of a status, such as "TGV_ERROR_IO".
inline std::string_view status_name(tgv_status status) { return tgv_status_name(status); }

/// Sends all messages of the library to `callback`, or nowhere when it is empty. When this returns, the callback set before
/// is not running and will not be called again. The program's own callback, one for the whole process: do not mix with
/// tgv_set_log_callback, and take a LogListener in a library. TGV_ERROR_BUSY from inside a log callback and while another thread sets one.
inline Result<void> set_log_callback(LogCallback callback) {
    static std::mutex mutex;
    // Not destroyed at the end of the program: messages may still come.
    static LogCallback *current = nullptr;

    const std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
    if (!lock.owns_lock()) TGV_HPP_FAIL(Error(TGV_ERROR_BUSY, "the log callback is being set by another thread"));
    std::unique_ptr<LogCallback> next = callback ? std::make_unique<LogCallback>(std::move(callback)) : nullptr;
    const tgv_status status = tgv_set_log_callback(next ? detail::on_log : nullptr, next.get());
    if (status != TGV_OK) TGV_HPP_FAIL(Error::last(status));
    const std::unique_ptr<LogCallback> old(std::exchange(current, next.release()));
    return Result<void>();
}

/// Hears all messages of the library as long as it lives, beside set_log_callback and other listeners: for a part of a program
/// that knows nothing of the others.
class LogListener {
public:
    /// TGV_ERROR_BUSY from inside a log callback, TGV_ERROR_INVALID_ARGUMENT for an empty one.
    static Result<LogListener> add(LogCallback callback) {
        auto kept = std::make_unique<LogCallback>(std::move(callback));
        std::uint64_t id = 0;
        const tgv_status status = tgv_add_log_callback(*kept ? detail::on_log : nullptr, kept.get(), &id);
        return detail::give(status, LogListener(id, std::move(kept)));
    }

    LogListener(LogListener &&other) noexcept
        : id_(std::exchange(other.id_, 0)), callback_(std::move(other.callback_)) {}
    LogListener &operator=(LogListener other) noexcept {
        std::swap(id_, other.id_);
        std::swap(callback_, other.callback_);
        return *this;
    }

    ~LogListener() {
        // Where it cannot be removed, inside a log callback, it stays for good.
        if (id_ != 0 && tgv_remove_log_callback(id_) != TGV_OK) static_cast<void>(callback_.release());
    }

private:
    LogListener(std::uint64_t id, std::unique_ptr<LogCallback> callback) noexcept
        : id_(id), callback_(std::move(callback)) {}

    std::uint64_t id_;
    std::unique_ptr<LogCallback> callback_;
};

/// Figures of a model, of an answer.
using ModelInfo = tgv_model_info;
using MemoryPlan = tgv_memory_plan;
using Statistics = tgv_statistics;

/// How tokens are chosen: greedy, or the fields of tgv_sampling_params.
struct Sampling : tgv_sampling_params {
    Sampling() noexcept : tgv_sampling_params(TGV_SAMPLING_PARAMS_INIT) {}

    /// At random, by the model's own values. The same seed gives the same answer; 0 takes another one each time.
    static Sampling random(std::uint32_t random_seed = 0) noexcept {
        Sampling sampling;
        sampling.mode = TGV_SAMPLING_RANDOM;
        sampling.seed = random_seed;
        return sampling;
    }
};

/// How to load a model; see tgv_model_params.
struct ModelOptions {
    std::int32_t threads = 0;
    std::int32_t gpu_layers = 0;
    std::int32_t embedding_cache_mb = 0;
    std::int32_t profile = TGV_PROFILE_MAPPED;
    std::uint64_t processor_mask = 0;
    std::uint64_t memory_limit = 0;
    std::int32_t precision = TGV_PRECISION_AUTO;
    std::int32_t files = TGV_FILES_MAPPED;
    ProgressCallback on_progress;

    /// As the C API takes them, without the callback.
    tgv_model_params params() const noexcept {
        tgv_model_params params = TGV_MODEL_PARAMS_INIT;
        params.threads = threads;
        params.gpu_layers = gpu_layers;
        params.embedding_cache_mb = embedding_cache_mb;
        params.profile = profile;
        params.processor_mask = processor_mask;
        params.memory_limit = memory_limit;
        params.precision = precision;
        params.files = files;
        return params;
    }
};

/// How a session works; see tgv_session_params.
struct SessionOptions {
    std::int32_t context = 0;
    std::int32_t threads = 0;
    std::int32_t max_new_tokens = 0;
    std::int32_t when_full = TGV_WHEN_FULL_FAIL;
    std::int32_t kv_type = TGV_KV_F16;
    std::optional<std::string> template_name;
    std::optional<std::string> system_text;
    std::optional<std::string> template_text;
    std::optional<std::string> image_text;
    std::vector<std::string> stop_texts;
    Sampling sampling;
    /// Gets the fraction done while add_image encodes.
    ProgressCallback on_progress;
    /// Hears of every phase of every call on the session.
    PhaseCallback on_phase;
};

/// How candidates are ranked; see tgv_rank_params.
struct RankOptions {
    std::optional<std::string> end_text;
    bool no_bos = false;
};

/// A picture's pixels. Immutable: any number of threads may use it.
class Image : public detail::Handle<tgv_image, tgv_image_free> {
public:
    using Handle::Handle;

    struct Size {
        std::uint32_t width, height;
    };

    /// Reads a picture file: PNG, JPEG, WebP, GIF (first frame), BMP, TIFF or PNM, recognised by content.
    static Result<Image> from_file(std::string_view path) {
        const detail::Text text(path);
        if (!text.valid()) TGV_HPP_FAIL(detail::zero_byte());
        tgv_image *image = nullptr;
        const tgv_status status = tgv_image_from_file(text.get(), &image);
        return detail::give(status, Image(image));
    }

    /// Decodes a picture file that is in memory.
    static Result<Image> from_memory(const void *data, std::size_t size) {
        tgv_image *image = nullptr;
        const tgv_status status = tgv_image_from_memory(data, size, &image);
        return detail::give(status, Image(image));
    }

    /// Copies pixels; `stride` bytes from row to row, 0 for rows without a gap; `format` is TGV_PIXELS_....
    static Result<Image> from_pixels(const void *pixels, std::size_t size, std::uint32_t width, std::uint32_t height,
                                     std::int32_t format, std::size_t stride = 0) {
        tgv_image *image = nullptr;
        const tgv_status status = tgv_image_from_pixels(pixels, size, width, height, stride, format, &image);
        return detail::give(status, Image(image));
    }

    /// The sides in pixels.
    Result<Size> size() const {
        Size size = {0, 0};
        const tgv_status status = tgv_image_get_size(get(), &size.width, &size.height);
        return detail::give(status, size);
    }
};

/// A loaded model. Immutable: any number of threads and sessions may use it.
class Model : public detail::Handle<tgv_model, tgv_model_free> {
public:
    using Handle::Handle;

    struct CacheSize {
        std::size_t count, bytes;
    };

    /// Loads a model from its two files, which must not be changed while it lives. Without `vision_path`: a decoder that
    /// answers about text only.
    static Result<Model> load(std::string_view decoder_path, std::optional<std::string> vision_path,
                              const ModelOptions &options = {}) {
        const detail::Text decoder(decoder_path), vision(vision_path);
        if (!decoder.valid() || !vision.valid()) TGV_HPP_FAIL(detail::zero_byte());
        detail::Progress progress(options.on_progress);
        tgv_model_params params = options.params();
        params.on_progress = progress ? detail::on_progress : nullptr;
        params.user_data = &progress;
        tgv_model *model = nullptr;
        const tgv_status status = tgv_model_load(decoder.get(), vision.get(), &params, &model);
        Model owner(model);
        progress.rethrow();
        return detail::give(status, std::move(owner));
    }

    /// How much memory a model and a session would take, from the files' headers: nothing is loaded. Of the session's options
    /// context and kv_type count.
    static Result<MemoryPlan> plan(std::string_view decoder_path, std::optional<std::string> vision_path,
                                   const ModelOptions &options = {}, const SessionOptions &session = {}) {
        const detail::Text decoder(decoder_path), vision(vision_path);
        if (!decoder.valid() || !vision.valid()) TGV_HPP_FAIL(detail::zero_byte());
        const tgv_model_params model_params = options.params();
        tgv_session_params session_params = TGV_SESSION_PARAMS_INIT;
        session_params.context = session.context;
        session_params.kv_type = session.kv_type;
        MemoryPlan plan = TGV_MEMORY_PLAN_INIT;
        const tgv_status status = tgv_model_plan(decoder.get(), vision.get(), &model_params, &session_params, &plan);
        return detail::give(status, plan);
    }

    Result<ModelInfo> info() const {
        ModelInfo info = TGV_MODEL_INFO_INIT;
        const tgv_status status = tgv_model_get_info(get(), &info);
        return detail::give(status, info);
    }

    /// One line about the model for a person.
    std::string description() const { return tgv_model_description(get()); }

    /// The names of the prompt templates, for SessionOptions::template_name.
    std::vector<std::string> template_names() const {
        std::vector<std::string> names(tgv_model_template_count(get()));
        for (std::size_t i = 0; i < names.size(); ++i) names[i] = tgv_model_template_name(get(), i);
        return names;
    }

    /// How many positions of the context a text takes.
    Result<std::size_t> count_tokens(std::string_view text) const {
        const detail::Text copy(text);
        if (!copy.valid()) TGV_HPP_FAIL(detail::zero_byte());
        std::size_t count = 0;
        const tgv_status status = tgv_model_count_tokens(get(), copy.get(), &count);
        return detail::give(status, count);
    }

    /// How many embeddings the cache holds, and their bytes.
    Result<CacheSize> cache_size() const {
        CacheSize size = {0, 0};
        const tgv_status status = tgv_model_get_cache_size(get(), &size.count, &size.bytes);
        return detail::give(status, size);
    }
};

/// An encoded image, for any session of its model. Immutable: any number of threads may use it.
class Embedding : public detail::Handle<tgv_embedding, tgv_embedding_free> {
public:
    using Handle::Handle;

    struct Size {
        std::size_t rows, width;
    };

    /// Encodes an image: the expensive half of a question.
    static Result<Embedding> encode(const Model &model, const Image &image, const ProgressCallback &on_progress = {}) {
        detail::Progress progress(on_progress);
        tgv_encode_params params = TGV_ENCODE_PARAMS_INIT;
        params.on_progress = progress ? detail::on_progress : nullptr;
        params.user_data = &progress;
        tgv_embedding *embedding = nullptr;
        const tgv_status status = tgv_embedding_encode(model.get(), image.get(), &params, &embedding);
        Embedding owner(embedding);
        progress.rethrow();
        return detail::give(status, std::move(owner));
    }

    /// Encodes several images one after the other; all or none.
    static Result<std::vector<Embedding>> encode_each(const Model &model, const std::vector<const Image *> &images,
                                                      const ProgressCallback &on_progress = {}) {
        detail::Progress progress(on_progress);
        tgv_encode_params params = TGV_ENCODE_PARAMS_INIT;
        params.on_progress = progress ? detail::on_progress : nullptr;
        params.user_data = &progress;
        std::vector<const tgv_image *> handles;
        for (const Image *image : images) handles.push_back(image != nullptr ? image->get() : nullptr);
        std::vector<tgv_embedding *> found(images.size());
        const tgv_status status =
            tgv_embedding_encode_each(model.get(), handles.data(), handles.size(), &params, found.data());
        std::vector<Embedding> owners;
        for (tgv_embedding *embedding : found) owners.emplace_back(embedding);
        progress.rethrow();
        return detail::give(status, std::move(owners));
    }

    /// From floats that values() gave, perhaps in an earlier run of the program.
    static Result<Embedding> from_values(const Model &model, const std::vector<float> &values) {
        tgv_embedding *embedding = nullptr;
        const tgv_status status = tgv_embedding_from_values(model.get(), values.data(), values.size(), &embedding);
        return detail::give(status, Embedding(embedding));
    }

    /// Loads what save() wrote with the same vision file.
    static Result<Embedding> load(const Model &model, std::string_view path) {
        const detail::Text text(path);
        if (!text.valid()) TGV_HPP_FAIL(detail::zero_byte());
        tgv_embedding *embedding = nullptr;
        const tgv_status status = tgv_embedding_load(model.get(), text.get(), &embedding);
        return detail::give(status, Embedding(embedding));
    }

    /// Saves it, beside the model that encoded it. An existing file is replaced.
    Result<void> save(const Model &model, std::string_view path) const {
        const detail::Text text(path);
        if (!text.valid()) TGV_HPP_FAIL(detail::zero_byte());
        return detail::check(tgv_embedding_save(model.get(), get(), text.get()));
    }

    /// `rows` vectors of `width` floats.
    Result<Size> size() const {
        Size size = {0, 0};
        const tgv_status status = tgv_embedding_get_size(get(), &size.rows, &size.width);
        return detail::give(status, size);
    }

    /// The floats, row-major.
    Result<std::vector<float>> values() const {
        Size size = {0, 0};
        tgv_status status = tgv_embedding_get_size(get(), &size.rows, &size.width);
        std::vector<float> values(size.rows * size.width);
        if (status == TGV_OK) status = tgv_embedding_copy(get(), values.data(), values.size());
        return detail::give(status, std::move(values));
    }
};

/// A conversation with a model, used by one thread at a time.
class Session : public detail::Handle<tgv_session, tgv_session_free> {
public:
    explicit Session(tgv_session *session) noexcept : Handle(session) {}

    /// Starts a conversation. The model may be destroyed before it ends.
    static Result<Session> create(const Model &model, const SessionOptions &options = {}) {
        const detail::Text template_name(options.template_name), system_text(options.system_text);
        const detail::Text template_text(options.template_text), image_text(options.image_text);
        const detail::Texts stop_texts(options.stop_texts);
        if (!template_name.valid() || !system_text.valid() || !template_text.valid() || !image_text.valid() ||
            !stop_texts.valid())
            TGV_HPP_FAIL(detail::zero_byte());
        std::unique_ptr<detail::Listeners> listeners(
            new detail::Listeners{detail::Progress(options.on_progress), detail::Phases(options.on_phase)});
        tgv_session_params params = TGV_SESSION_PARAMS_INIT;
        params.context = options.context;
        params.threads = options.threads;
        params.max_new_tokens = options.max_new_tokens;
        params.when_full = options.when_full;
        params.kv_type = options.kv_type;
        params.template_name = template_name.get();
        params.system_text = system_text.get();
        params.template_text = template_text.get();
        params.image_text = image_text.get();
        params.stop_texts = stop_texts.get();
        params.stop_text_count = stop_texts.size();
        params.sampling = &options.sampling;
        params.on_progress = listeners->progress ? detail::on_session_progress : nullptr;
        params.on_phase = listeners->phases ? detail::on_phase : nullptr;
        params.user_data = listeners.get();
        tgv_session *handle = nullptr;
        const tgv_status status = tgv_session_create(model.get(), &params, &handle);
        if (status != TGV_OK) TGV_HPP_FAIL(Error::last(status));
        Session session(handle);
        session.listeners_ = std::move(listeners);
        return session;
    }

    /// Encodes an image and puts it in front of the next question.
    Result<void> add_image(const Image &image) {
        const tgv_status status = tgv_session_add_image(get(), image.get());
        rethrow();
        return detail::check(status);
    }

    /// Puts an encoded image in front of the next question.
    Result<void> add_embedding(const Embedding &embedding) {
        return detail::check(tgv_session_add_embedding(get(), embedding.get()));
    }

    /// Asks a question about the images added since the last one, or goes on with the conversation; gives the whole answer.
    Result<std::string> ask(std::string_view question, const TextCallback &on_text = {}) {
        const detail::Text text(question);
        if (!text.valid()) TGV_HPP_FAIL(detail::zero_byte());
        detail::Pieces pieces(on_text);
        const char *answer = "";
        const tgv_status status =
            tgv_session_ask(get(), text.get(), pieces ? detail::on_text : nullptr, &pieces, &answer);
        pieces.rethrow();
        rethrow();
        return detail::give(status, std::string(answer));
    }

    /// Answers several questions, each as if it alone were asked next, side by side. The conversation stays as it is.
    Result<void> ask_each(const std::vector<std::string> &questions, const AnswerCallback &on_answer) {
        const detail::Texts texts(questions);
        if (!texts.valid()) TGV_HPP_FAIL(detail::zero_byte());
        detail::Answers answers(on_answer);
        const tgv_status status = tgv_session_ask_each(get(), texts.get(), texts.size(),
                                                       answers ? detail::on_answer : nullptr, &answers);
        answers.rethrow();
        rethrow();
        return detail::check(status);
    }

    /// The mean loss of each candidate as the answer to a question; the lowest is the model's choice. The conversation stays
    /// as it is.
    Result<std::vector<float>> rank(std::string_view question, const std::vector<std::string> &candidates,
                                    const RankOptions &options = {}) {
        const detail::Text text(question), end_text(options.end_text);
        const detail::Texts texts(candidates);
        if (!text.valid() || !end_text.valid() || !texts.valid()) TGV_HPP_FAIL(detail::zero_byte());
        if (candidates.empty()) TGV_HPP_FAIL(Error(TGV_ERROR_INVALID_ARGUMENT, "no candidates; pass at least one"));
        tgv_rank_params params = TGV_RANK_PARAMS_INIT;
        params.end_text = end_text.get();
        params.no_bos = options.no_bos ? 1 : 0;
        std::vector<float> losses(candidates.size());
        const tgv_status status =
            tgv_session_rank(get(), text.get(), texts.get(), texts.size(), &params, losses.data());
        rethrow();
        return detail::give(status, std::move(losses));
    }

    /// Forgets the conversation and the images waiting.
    Result<void> reset() { return detail::check(tgv_session_reset(get())); }

    /// Changes how tokens are chosen from the next question on.
    Result<void> set_sampling(const Sampling &sampling) {
        return detail::check(tgv_session_set_sampling(get(), &sampling));
    }

    /// Makes every answer from the next question on follow a grammar in GBNF.
    Result<void> set_grammar(std::string_view grammar) {
        const detail::Text text(grammar);
        if (!text.valid()) TGV_HPP_FAIL(detail::zero_byte());
        return detail::check(tgv_session_set_grammar(get(), text.get()));
    }

    /// Makes every answer from the next question on one of these; with none, answers are free again.
    Result<void> set_answers(const std::vector<std::string> &answers) {
        const detail::Texts texts(answers);
        if (!texts.valid()) TGV_HPP_FAIL(detail::zero_byte());
        return detail::check(tgv_session_set_answers(get(), texts.get(), texts.size()));
    }

    /// Lets answers be free again.
    Result<void> clear_constraint() { return detail::check(tgv_session_set_grammar(get(), nullptr)); }

    /// Makes the call that is running fail with TGV_ERROR_CANCELLED soon. Any thread, at any moment.
    void cancel() const noexcept { tgv_session_cancel(get()); }

    /// The figures of the last answer.
    Result<Statistics> statistics() const {
        Statistics statistics = TGV_STATISTICS_INIT;
        const tgv_status status = tgv_session_statistics(get(), &statistics);
        return detail::give(status, statistics);
    }

private:
    // On the heap, where the library finds it wherever this object is moved.
    void rethrow() {
        if (listeners_) listeners_->rethrow();
    }

    std::unique_ptr<detail::Listeners> listeners_;
};

/// One box in pixels of the picture, and the phrase that it belongs to, "" for none.
struct Box {
    std::string label;
    float x0, y0, x1, y1;
};

/// The boxes of an answer, found while it streams.
class Boxes : public detail::Handle<tgv_boxes, tgv_boxes_free> {
public:
    using Handle::Handle;

    /// An empty list for an answer about `image`.
    static Result<Boxes> create(const Image &image) {
        tgv_boxes *boxes = nullptr;
        const tgv_status status = tgv_boxes_create(image.get(), &boxes);
        return detail::give(status, Boxes(boxes));
    }

    /// Takes the next piece of the answer.
    Result<void> push(std::string_view text) {
        const detail::Text copy(text);
        if (!copy.valid()) TGV_HPP_FAIL(detail::zero_byte());
        return detail::check(tgv_boxes_push(get(), copy.get()));
    }

    /// How many there are so far.
    std::size_t count() const noexcept { return tgv_boxes_count(get()); }

    /// The box at `index`, which is below count().
    Result<Box> at(std::size_t index) const {
        tgv_box box = TGV_BOX_INIT;
        const tgv_status status = tgv_boxes_get(get(), index, &box);
        return detail::give(status, Box{box.label != nullptr ? box.label : "", box.x0, box.y0, box.x1, box.y1});
    }

    /// Draws the boxes and labels onto a copy of the picture, as a PNG file.
    Result<void> draw(const Image &image, std::string_view path) const {
        const detail::Text text(path);
        if (!text.valid()) TGV_HPP_FAIL(detail::zero_byte());
        return detail::check(tgv_boxes_draw(get(), image.get(), text.get()));
    }
};

#undef TGV_HPP_FAIL

} // namespace results or exceptions
} // namespace tgv

#endif
