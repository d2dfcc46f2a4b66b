package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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
	jumps  bool // the server is started so that its clock can jump
}

// newMachine makes a server of an engine whose files are in a folder of its own
// below dir.
func newMachine(dir, program, engine string, k server.Keys, random *rand.Rand) (_ *machine, err error) {
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	d := disk.New(data)
	m := &machine{disk: d, random: random}
	at := server.Place{Start: func(cmd *exec.Cmd) error { return watched(d, cmd, m.jumps) }}
	m.server, err = server.NewProcess(program, engine+"://"+filepath.Join(data, "skiff.db"), filepath.Join(dir, "skiff.log"), k, at)
	return m, err
}

// watched starts a program whose calls are seen.
func watched(d *disk.Disk, cmd *exec.Cmd, jumps bool) (err error) {
	if jumps {
		_, err = d.StartWithClock(cmd)
	} else {
		_, err = d.Start(cmd)
	}
	return err
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
		"full disk":    func(ctx context.Context) error { return full(ctx, m.disk, m.random) },
		"failed sync":  m.failedSync,
		"stalled disk": func(ctx context.Context) error { return stalled(ctx, m.disk, m.random) },
		clockJump:      func(context.Context) error { jump(m.disk, m.random); return nil },
		"paused":       func(ctx context.Context) error { return paused(ctx, m.server, m.random) },
	}
}

// endAt kills the server when it is about to make a call of a kind.
func (m *machine) endAt(ctx context.Context, k disk.Kind) error {
	if err := whenCalled(ctx, m.disk, m.random, k, disk.Verdict{Kill: true}); err != nil {
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

// full refuses whatever makes files longer, for some calls, and then has room
// again.
func full(ctx context.Context, d *disk.Disk, random *rand.Rand) error {
	err := whenCalled(ctx, d, random, disk.Write, disk.Verdict{Refuse: unix.ENOSPC})
	if err == nil {
		err = wait(ctx, time.Second)
	}
	d.Judge(nil)
	return err
}

// failedSync is a disk that says once that it could not keep what it was given:
// what it was may be lost, although the system shows it until the power is.
func (m *machine) failedSync(ctx context.Context) error {
	if err := whenCalled(ctx, m.disk, m.random, disk.Sync, disk.Verdict{Refuse: unix.EIO}); err != nil {
		return err
	}
	m.disk.Judge(nil)
	return errors.Join(wait(ctx, 200*time.Millisecond), m.losePower(ctx))
}

// stalled is a disk that answers nothing for a while.
func stalled(ctx context.Context, d *disk.Disk, random *rand.Rand) error {
	release := make(chan struct{})
	d.Judge(func(disk.Call) disk.Verdict { <-release; return disk.Verdict{} })
	err := wait(ctx, time.Duration(some(random, 3))*time.Second)
	close(release)
	d.Judge(nil)
	return err
}

// paused is a server that gets no processor for a while.
func paused(ctx context.Context, p *server.Process, random *rand.Rand) error {
	if err := p.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	return errors.Join(wait(ctx, time.Duration(some(random, 2))*time.Second), p.Signal(unix.SIGCONT))
}

// clockJump is the name of the fault that only servers have which are started for
// it: it makes them slow.
const clockJump = "clock jump"

// jump moves a server's clock, ahead or behind, by up to three quarters of an
// hour: certificates are good from an hour before they are made.
func jump(d *disk.Disk, random *rand.Rand) {
	const most = 45 * time.Minute
	d.Jump(time.Duration(random.Int64N(2*int64(most))) - most)
}

// named reports whether a fault of a name is among some.
func named(faults []traffic.Fault, name string) bool {
	return slices.ContainsFunc(faults, func(f traffic.Fault) bool { return f.Name == name })
}

// some is a small number that the seed decides.
func some(random *rand.Rand, most int) int { return 1 + random.IntN(most) }

// whenCalled has the next calls of a kind judged, but for some first ones, and
// waits until one has been.
func whenCalled(ctx context.Context, d *disk.Disk, random *rand.Rand, k disk.Kind, v disk.Verdict) error {
	left := int64(some(random, 8))
	var calls atomic.Int64
	judged := make(chan struct{})
	d.Judge(func(c disk.Call) disk.Verdict {
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
	return await(ctx, judged, fmt.Sprintf("a %s", k))
}

// await waits until something has been done that clients at work must lead to.
func await(ctx context.Context, done <-chan struct{}, what string) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Minute):
		return fmt.Errorf("nobody calls for %s", what)
	}
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// choose takes n of the faults that are named, as far as there are such, by seed.
func choose(random *rand.Rand, all map[string]func(context.Context) error, wanted []string, n int) (faults []traffic.Fault) {
	possible := slices.DeleteFunc(names(all), func(name string) bool { return !slices.Contains(wanted, name) })
	for range n {
		if len(possible) > 0 {
			name := possible[random.IntN(len(possible))]
			faults = append(faults, traffic.Fault{Name: name, Do: all[name]})
		}
	}
	return faults
}
