// An HTTP service for one bundle: raw frames and sound in, label and scores out.
//
//   tvlt_service BUNDLE [--port 8080] [--threads 4] [--engine-threads 0]
//
//   POST /answer?samples=N&frames=F&height=H&width=W
//        body: N float32 samples (mono, 44.1 kHz, little endian), then F x H x W x 3 bytes of RGB
//        answer: {"label": ..., "score": ..., "scores": {...}, "milliseconds": ...}, or {"error": ...}
//   GET  /health
//
// All worker threads share one session. SIGTERM and SIGINT let running requests finish.
#include <httplib.h>
#include <pthread.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <thread>
#include <tvlt_deploy.hpp>

namespace {

constexpr std::size_t max_bytes = std::size_t{1} << 28;  // 40 frames of 1080p; larger bodies are refused

/// A number of the query; 0 if it is absent.
std::int64_t number(const httplib::Request& request, const char* name) {
    const auto text = request.get_param_value(name);
    char* end = nullptr;
    const auto value = std::strtoll(text.c_str(), &end, 10);
    if (*end != '\0' || value < 0 || value > static_cast<std::int64_t>(max_bytes))
        throw tvlt::Error(TVLT_USAGE, std::string(name) + " is '" + text + "'; expected a number");
    return value;
}

/// The clip of a request; its data is the body of the request.
tvlt_clip clip_of(const httplib::Request& request) {
    auto clip = tvlt::make<tvlt_clip>();
    clip.sample_count = number(request, "samples");
    const auto sound = static_cast<std::size_t>(clip.sample_count) * sizeof(float);
    if (sound > request.body.size()) throw tvlt::Error(TVLT_USAGE, "the body is shorter than its samples");
    clip.samples = reinterpret_cast<const float*>(request.body.data());
    clip.sampling_rate = 44100;
    clip.frames = reinterpret_cast<const std::uint8_t*>(request.body.data()) + sound;
    clip.frames_size = request.body.size() - sound;
    clip.frame_count = number(request, "frames");
    clip.height = number(request, "height");
    clip.width = number(request, "width");
    return clip;
}

nlohmann::json answer(const tvlt::Session& session, const tvlt_clip& clip) {
    const auto start = std::chrono::steady_clock::now();
    const auto result = session.run(clip);
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    const auto view = result.answer();
    nlohmann::json scores;
    for (std::uint32_t label = 0; label < view.label_count; ++label) scores[view.labels[label]] = view.scores[label];
    return {{"label", view.label}, {"score", view.score}, {"scores", scores}, {"milliseconds", elapsed.count()}};
}

void serve(httplib::Server& server, const tvlt::Session& session) {
    server.set_payload_max_length(max_bytes);
    server.set_tcp_nodelay(true);  // else a response waits 40 ms for the client's acknowledgement
    server.Get("/health", [](const httplib::Request&, httplib::Response& response) {
        response.set_content("ok\n", "text/plain");
    });
    server.Post("/answer", [&](const httplib::Request& request, httplib::Response& response) {
        nlohmann::json content;
        try {
            content = answer(session, clip_of(request));
        } catch (const tvlt::Error& error) {
            response.status = error.status() == TVLT_USAGE ? 400 : 500;
            content["error"] = error.what();
        }
        response.set_content(content.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
                             "application/json");
    });
}

std::map<std::string, int> options_of(int count, char** arguments) {
    std::map<std::string, int> options{{"--port", 8080}, {"--threads", 4}, {"--engine-threads", 0}};
    for (int index = 2; index + 1 < count; index += 2) {
        if (options.count(arguments[index]) == 0) throw std::invalid_argument(arguments[index]);
        options[arguments[index]] = std::stoi(arguments[index + 1]);
    }
    return options;
}

}  // namespace

int main(int count, char** arguments) try {
    if (count < 2 || count % 2 != 0) {
        std::fprintf(stderr, "usage: %s BUNDLE [--port N] [--threads N] [--engine-threads N]\n", arguments[0]);
        return 2;
    }
    const auto options = options_of(count, arguments);

    // Signals that are blocked before any thread starts reach only the thread that waits for them.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);

    auto opening = tvlt::make<tvlt_options>();
    opening.threads = options.at("--engine-threads");
    const tvlt::Session session(arguments[1], opening);
    httplib::Server server;
    server.new_task_queue = [&] { return new httplib::ThreadPool(static_cast<std::size_t>(options.at("--threads"))); };
    serve(server, session);
    const int port = options.at("--port") == 0                                ? server.bind_to_any_port("127.0.0.1")
                     : server.bind_to_port("127.0.0.1", options.at("--port")) ? options.at("--port")
                                                                              : -1;
    if (port < 0) {
        std::fprintf(stderr, "error: port %d of 127.0.0.1 is not available\n", options.at("--port"));
        return 4;
    }
    std::thread([&] {
        int caught = 0;
        sigwait(&signals, &caught);
        server.stop();
    }).detach();
    std::printf("listening on 127.0.0.1:%d\n", port);
    std::fflush(stdout);
    server.listen_after_bind();  // returns when the running requests have ended
    return 0;
} catch (const tvlt::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.status();
} catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
}
