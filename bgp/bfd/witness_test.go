package bfd_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// witnessEnv makes the test binary a witness.
const witnessEnv = "BFD_TEST_WITNESS"

const (
	witnessPriority = 90 // above all that is tried
	stallOver       = 8 * time.Millisecond
)

// runWitness has a thread on each processor that wants to run every millisecond before everything else, and prints when one
// could not: then no program could have been on time. Kernels that are not preemptible and virtual machines have such stalls.
func runWitness() int {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, task := range tasks {
		tid, _ := strconv.Atoi(task.Name())
		attr := &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: witnessPriority}
		if err := unix.SchedSetAttr(tid, attr, 0); err != nil && err != unix.ESRCH {
			fmt.Fprintln(os.Stderr, "real time:", err)
			return 1
		}
	}
	runtime.GOMAXPROCS(runtime.NumCPU() + 2)
	for cpu := range runtime.NumCPU() {
		go func() {
			runtime.LockOSThread()
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				fmt.Fprintln(os.Stderr, "affinity:", err)
				os.Exit(1)
			}
			nap := unix.NsecToTimespec(int64(time.Millisecond))
			for last := time.Now(); ; {
				unix.Nanosleep(&nap, nil)
				now := time.Now()
				if gap := now.Sub(last); gap > stallOver {
					fmt.Println(now.UnixNano(), gap.Nanoseconds())
				}
				last = now
			}
		}()
	}
	fmt.Println("0 0") // it runs
	select {}
}

type stall struct {
	end time.Time
	gap time.Duration
}

// witness collects what the witness says.
type witness struct {
	mu     sync.Mutex
	stalls []stall
}

func startWitness(t testing.TB) *witness {
	t.Helper()
	w := &witness{}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), witnessEnv+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		t.Fatal("the witness does not run")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines.Scan() {
			var end, gap int64
			if _, err := fmt.Sscan(lines.Text(), &end, &gap); err != nil {
				continue
			}
			w.mu.Lock()
			w.stalls = append(w.stalls, stall{end: time.Unix(0, end), gap: time.Duration(gap)})
			w.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		cmd.Wait()
	})
	return w
}

// excuses reports whether the machine stood still shortly before, or at, the given time, for as long as it takes to lose a packet or more.
func (w *witness) excuses(at time.Time) bool {
	const near = 100 * time.Millisecond
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.stalls {
		if d := at.Sub(s.end); d > -near && d < near {
			return true
		}
	}
	return false
}

func (w *witness) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var longest time.Duration
	for _, s := range w.stalls {
		longest = max(longest, s.gap)
	}
	return fmt.Sprintf("%d stalls of a processor over %s, the longest %s", len(w.stalls), stallOver, longest)
}
