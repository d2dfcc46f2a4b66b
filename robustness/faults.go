package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/robustness/disk"
	"github.com/skiff-k8s/skiff/robustness/server"
	"github.com/skiff-k8s/skiff/robustness/traffic"
)

// machine is one server as it is shipped, on a file, on a disk that can fail.
type machine struct {
	server *server.Process
	disk   *disk.Disk
	random *rand.Rand
}

// newMachine makes a server whose files are in a folder of its own below dir.
func newMachine(dir, program string, k server.Keys, random *rand.Rand) (*machine, error) {
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	d := disk.New(data)
	p, err := server.NewProcess(program, "file://"+filepath.Join(data, "skiff.db"), filepath.Join(dir, "skiff.log"), k, d)
	return &machine{server: p, disk: d, random: random}, err
}

// faults are what can go wrong with a machine, by name.
func (m *machine) faults() map[string]func(ctx context.Context) error {
	return map[string]func(ctx context.Context) error{
		"restart":       func(ctx context.Context) error { m.server.Stop(); return m.server.Start(ctx) },
		"kill":          func(ctx context.Context) error { m.server.Kill(); return m.server.Start(ctx) },
		"kill at write": func(ctx context.Context) error { return m.killAt(ctx, disk.Write) },
		"kill at sync":  func(ctx context.Context) error { return m.killAt(ctx, disk.Sync) },
		"power loss":    m.losePower,
		"power loss at sync": func(ctx context.Context) error {
			if err := m.endAt(ctx, disk.Sync); err != nil {
				return err
			}
			return m.restartAfterLoss(ctx)
		},
		"full disk":    m.fullDisk,
		"failed sync":  m.failedSync,
		"stalled disk": m.stalledDisk,
		"paused":       m.paused,
	}
}

// some is a small number that the seed decides.
func (m *machine) some(most int) int { return 1 + m.random.IntN(most) }

// whenCalled has the next calls of a kind judged, but for some first ones, and
// waits until one has been.
func (m *machine) whenCalled(ctx context.Context, k disk.Kind, v disk.Verdict) error {
	left := int64(m.some(8))
	var calls atomic.Int64
	judged := make(chan struct{})
	m.disk.Judge(func(c disk.Call) disk.Verdict {
		if c.Kind != k {
			return disk.Verdict{}
		}
		switch n := calls.Add(1); {
		case n < left:
			return disk.Verdict{}
		case n == left:
			close(judged)
		}
		return v
	})
	select {
	case <-judged:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Minute):
		return fmt.Errorf("nobody calls for a %s", k)
	}
}

// endAt kills the server when it is about to make a call of a kind.
func (m *machine) endAt(ctx context.Context, k disk.Kind) error {
	if err := m.whenCalled(ctx, k, disk.Verdict{Kill: true}); err != nil {
		return err
	}
	<-m.server.Ended()
	m.disk.Judge(nil)
	return nil
}

func (m *machine) killAt(ctx context.Context, k disk.Kind) error {
	if err := m.endAt(ctx, k); err != nil {
		return err
	}
	return m.server.Start(ctx)
}

// losePower kills the server at any time, and takes what was not synced.
func (m *machine) losePower(ctx context.Context) error {
	m.server.Kill()
	return m.restartAfterLoss(ctx)
}

func (m *machine) restartAfterLoss(ctx context.Context) error {
	if err := m.disk.LosePower(m.random); err != nil {
		return err
	}
	return m.server.Start(ctx)
}

// fullDisk refuses whatever makes files longer, for some calls, and then has
// room again.
func (m *machine) fullDisk(ctx context.Context) error {
	err := m.whenCalled(ctx, disk.Write, disk.Verdict{Refuse: unix.ENOSPC})
	if err == nil {
		err = m.wait(ctx, time.Second)
	}
	m.disk.Judge(nil)
	return err
}

// failedSync is a disk that says once that it could not keep what it was given:
// what it was may be lost, although the system shows it until the power is.
func (m *machine) failedSync(ctx context.Context) error {
	if err := m.whenCalled(ctx, disk.Sync, disk.Verdict{Refuse: unix.EIO}); err != nil {
		return err
	}
	m.disk.Judge(nil)
	return errors.Join(m.wait(ctx, 200*time.Millisecond), m.losePower(ctx))
}

// stalledDisk answers nothing for a while.
func (m *machine) stalledDisk(ctx context.Context) error {
	release := make(chan struct{})
	m.disk.Judge(func(disk.Call) disk.Verdict { <-release; return disk.Verdict{} })
	err := m.wait(ctx, time.Duration(m.some(3))*time.Second)
	close(release)
	m.disk.Judge(nil)
	return err
}

// paused is a server that gets no processor for a while.
func (m *machine) paused(ctx context.Context) error {
	if err := m.server.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	return errors.Join(m.wait(ctx, time.Duration(m.some(2))*time.Second), m.server.Signal(unix.SIGCONT))
}

func (m *machine) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// choose takes n of the faults that are named, by seed.
func choose(random *rand.Rand, all map[string]func(context.Context) error, names []string, n int) (faults []traffic.Fault) {
	for range n {
		name := names[random.IntN(len(names))]
		faults = append(faults, traffic.Fault{Name: name, Do: all[name]})
	}
	return faults
}
