package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The benchmarks of package skifftest are the other half of the comparison: the same in the process of a test.

// eachAssets measures with the programs of Skiff, and with those of Kubernetes, which SKIFF_TOOLS has.
func eachAssets(b *testing.B, measure func(b *testing.B, dir string)) {
	for _, programs := range []struct{ name, dir string }{{"skiff", assets(b)}, {"kubernetes", os.Getenv("SKIFF_TOOLS")}} {
		b.Run(programs.name, func(b *testing.B) {
			if programs.dir == "" {
				b.Skip("SKIFF_TOOLS does not name the folder of kube-apiserver and etcd")
			}
			measure(b, programs.dir)
		})
	}
}

// BenchmarkEnvtest starts what envtest starts, until it is healthy. Besides, it tells what memory both processes have of their own
// then, and how long they take to end.
func BenchmarkEnvtest(b *testing.B) {
	eachAssets(b, func(b *testing.B, dir string) { together(b, dir, 1) })
}

// BenchmarkEnvtestParallel has ten at once, for more of Kubernetes have no room on a small machine.
func BenchmarkEnvtestParallel(b *testing.B) {
	eachAssets(b, func(b *testing.B, dir string) { together(b, dir, 10) })
}

// together starts as many as count at once, until all are healthy.
func together(b *testing.B, dir string, count int) {
	memory, ending := 0, time.Duration(0)
	for b.Loop() {
		b.StopTimer()
		environments := make([]environment, count)
		for i := range environments {
			environments[i] = prepare(b, dir)
		}
		b.StartTimer()
		var programs []*exec.Cmd
		for _, e := range environments {
			programs = append(programs, begin(b, e.etcd))
		}
		for i, e := range environments {
			await(b, programs[i]) // as envtest does
			programs = append(programs, begin(b, e.apiserver))
		}
		for _, server := range programs[count:] {
			await(b, server)
		}
		b.StopTimer()
		memory = 0
		for _, program := range programs {
			memory += own(b, program)
		}
		begun := time.Now()
		end(b, programs[count:])
		end(b, programs[:count])
		ending += time.Since(begun)
		b.StartTimer()
	}
	b.ReportMetric(float64(memory)/1e3/float64(count), "MB/cluster")
	b.ReportMetric(ending.Seconds()/float64(b.N), "s/end")
}

// end tells programs to end, and waits until they have.
func end(b *testing.B, programs []*exec.Cmd) {
	for _, program := range programs {
		if err := program.Process.Signal(syscall.SIGTERM); err != nil {
			b.Fatal(err)
		}
	}
	for _, program := range programs {
		_ = program.Wait() // etcd ends by the signal, which is an error
	}
}

// own is the memory of a process that it does not share, in kilobytes.
func own(t testing.TB, cmd *exec.Cmd) (kilobytes int) {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		var part int
		if _, err := fmt.Sscanf(line, "Private_Clean: %d kB", &part); err == nil {
			kilobytes += part
		}
		if _, err := fmt.Sscanf(line, "Private_Dirty: %d kB", &part); err == nil {
			kilobytes += part
		}
	}
	return kilobytes
}
