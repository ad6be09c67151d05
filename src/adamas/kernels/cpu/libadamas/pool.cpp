#include "pool.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <exception>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace adamas {
namespace {

struct Job {
  Task task;
  void* context;
  int64_t count;
  std::atomic<int64_t> next{0};

  void work() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(context, i, i + 1);
  }
};

class Pool {
 public:
  explicit Pool(int wanted) : wanted_(wanted) {
    try {
      threads_.reserve(wanted);
      for (int i = 0; i < wanted; ++i) threads_.emplace_back([this] { loop(); });
    } catch (const std::exception&) {  // no more threads or memory to be had: those that have started do the work
    }
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& thread : threads_) thread.join();
  }

  int wanted() const { return wanted_; }

  void run(Job& job) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = &job;
      ++generation_;
    }
    if (job.count > static_cast<int64_t>(threads_.size())) {
      wake_.notify_all();
    } else {
      for (int64_t i = 1; i < job.count; ++i) wake_.notify_one();
    }
    job.work();
    std::unique_lock<std::mutex> lock(mutex_);
    job_ = nullptr;  // a worker that wakes up late finds nothing to join
    done_.wait(lock, [this] { return active_ == 0; });
  }

 private:
  void loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    uint64_t seen = 0;
    while (true) {
      wake_.wait(lock, [&] { return stop_ || (job_ && generation_ != seen); });
      if (stop_) return;
      seen = generation_;
      Job* job = job_;
      ++active_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--active_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Job* job_ = nullptr;
  uint64_t generation_ = 0;
  int active_ = 0;
  bool stop_ = false;
  const int wanted_;
  std::vector<std::thread> threads_;
};

#if defined(__linux__)
// CPUs' worth of time that a cgroup file grants: "quota period" in v2, or two files in v1. 0: no limit found.
double quota(const std::string& folder) {
  double limit = 0, period = 0;
  if (FILE* f = std::fopen((folder + "/cpu.max").c_str(), "r")) {
    if (std::fscanf(f, "%lf %lf", &limit, &period) != 2) limit = 0;  // "max 100000"
    std::fclose(f);
  } else {
    FILE* q = std::fopen((folder + "/cpu.cfs_quota_us").c_str(), "r");
    FILE* p = std::fopen((folder + "/cpu.cfs_period_us").c_str(), "r");
    if (!q || !p || std::fscanf(q, "%lf", &limit) != 1 || std::fscanf(p, "%lf", &period) != 1) limit = 0;
    if (q) std::fclose(q);
    if (p) std::fclose(p);
  }
  return limit > 0 && period > 0 ? limit / period : 0;
}

// The tightest quota on the way from this process's cgroup to the root.
double cgroup_quota() {
  double tightest = 0;
  auto take = [&](const std::string& folder) {
    const double q = quota(folder);
    if (q > 0 && (tightest == 0 || q < tightest)) tightest = q;
  };
  FILE* f = std::fopen("/proc/self/cgroup", "r");
  if (!f) return 0;
  char line[4096];
  while (std::fgets(line, sizeof line, f)) {
    std::string text(line);
    const size_t first = text.find(':'), second = text.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = text.substr(first + 1, second - first - 1);
    std::string path = text.substr(second + 1);
    while (!path.empty() && (path.back() == '\n' || path.back() == '/')) path.pop_back();
    const bool v2 = controllers.empty();
    if (!v2 && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    const std::string root = v2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (;; path.resize(path.rfind('/'))) {
      take(root + path);
      if (path.empty() || path.rfind('/') == std::string::npos) break;
    }
    take(root);
  }
  std::fclose(f);
  return tightest;
}
#endif

int allowed_threads() {
  int n = std::max(1u, std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) n = std::max(1, CPU_COUNT(&set));
  const double limit = cgroup_quota();
  if (limit > 0) n = std::min(n, std::max(1, static_cast<int>(std::ceil(limit))));
#endif
  return n;
}

// Everything about the pool that a fork must forget. It lives on the heap: the child drops the parent's copy, whose
// mutexes may be held by threads that the child does not have.
struct State {
  std::mutex in_use;
  Pool* pool = nullptr;
};

std::atomic<int> g_wanted{0};  // 0: automatic
std::atomic<State*> g_state{nullptr};

State& state() {
  State* s = g_state.load();
  if (!s) {
    State* fresh = new State;
    if (g_state.compare_exchange_strong(s, fresh)) return *fresh;
    delete fresh;
  }
  return *s;
}

#if !defined(_WIN32)
const int g_at_fork = pthread_atfork(nullptr, nullptr, [] { g_state.store(nullptr); });
#endif

// Joins the workers when the library goes. A step that is still running on another thread keeps its pool.
struct AtExit {
  ~AtExit() {
    State* s = g_state.load();
    if (s && s->in_use.try_lock()) {
      delete s->pool;
      s->pool = nullptr;
      s->in_use.unlock();
    }
  }
} g_at_exit;

}  // namespace

void set_threads(int n) { g_wanted.store(std::max(0, n)); }

int get_threads() {
  static const int automatic = allowed_threads();
  const int n = g_wanted.load();
  return n > 0 ? n : automatic;
}

void parallel(int64_t count, Task task, void* context) {
  const int threads = get_threads();
  State& s = state();
  std::unique_lock<std::mutex> lock(s.in_use, std::try_to_lock);
  if (count <= 1 || threads <= 1 || !lock.owns_lock()) {
    task(context, 0, count);
    return;
  }
  if (!s.pool || s.pool->wanted() != threads - 1) {
    delete s.pool;
    s.pool = new (std::nothrow) Pool(threads - 1);
    if (!s.pool) return task(context, 0, count);
  }
  Job job{task, context, count};
  s.pool->run(job);
}

}  // namespace adamas
