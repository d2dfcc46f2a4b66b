package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
	"github.com/skiff-k8s/skiff/robustness/disk"
	"github.com/skiff-k8s/skiff/robustness/history"
	"github.com/skiff-k8s/skiff/robustness/network"
	"github.com/skiff-k8s/skiff/robustness/server"
	"github.com/skiff-k8s/skiff/robustness/traffic"
)

// site is some servers as they are shipped, each on a host of its own, and the
// database that they share.
type site struct {
	database *databases.Instance
	disk     *disk.Disk // of the database
	url      string     // of the database, from here
	stations []*station
	random   *rand.Rand
	jumps    bool // servers are started so that their clocks can jump
}

// station is a server and its way to the database.
type station struct {
	server *server.Process
	calls  *disk.Disk // of the server
	host   *network.Host
	proxy  *network.Proxy
}

// onDatabase are some servers on a database that is started for each history.
func onDatabase(scheme string, servers int) subject {
	return func(ctx context.Context, s settings, dir string, random *rand.Rand, p traffic.Plan) (*history.History, []traffic.Fault, error) {
		at, err := newSite(dir, s.skiff, scheme, servers, random)
		if err != nil {
			return nil, nil, err
		}
		defer at.close()
		p.Namespace, p.Faults = "default", choose(random, at.faults(), s.faults, 1+random.IntN(4))
		p.Forgets, at.jumps = named(p.Faults, compaction), named(p.Faults, clockJump)
		for _, station := range at.stations {
			if err := station.server.Start(ctx); err != nil {
				return nil, nil, err
			}
			p.Servers = append(p.Servers, station.server.Config())
		}
		h, err := traffic.Run(ctx, p)
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, at.database.Said())
		}
		return h, p.Faults, err
	}
}

// newSite starts a database and describes its servers. It must be closed, also
// if there is an error.
func newSite(dir, program, scheme string, servers int, random *rand.Rand) (_ *site, err error) {
	s := &site{random: random}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	through := func(cmd *exec.Cmd) error { _, err := s.disk.Start(cmd); return err }
	if s.database, err = databases.NewInstance(scheme, through); err != nil {
		return nil, err
	}
	s.disk = disk.NewGate(s.database.Folder(), func() { _ = s.database.Kill() }) // an error is one of what has ended
	if err := s.database.Start(); err != nil {
		return nil, err
	}
	if s.url, err = s.database.Database(); err != nil {
		return nil, err
	}
	for range servers {
		if err := s.addStation(); err != nil {
			return nil, err
		}
	}
	var addresses []string
	for _, station := range s.stations {
		addresses = append(addresses, station.host.Address)
	}
	keys, err := server.NewKeys(filepath.Join(dir, "pki"), addresses...)
	if err != nil {
		return nil, err
	}
	for n, at := range s.stations {
		if err := s.equip(at, program, filepath.Join(dir, fmt.Sprintf("skiff-%d.log", n)), keys); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// addStation makes a host and its way to the database.
func (s *site) addStation() error {
	u, err := url.Parse(s.url)
	if err != nil {
		return err
	}
	at := &station{calls: disk.NewGate("", nil)}
	if at.host, err = network.NewHost(); err != nil {
		return err
	}
	if at.proxy, err = network.NewProxy(at.host.Storage+":0", u.Host); err != nil {
		at.host.Remove()
		return err
	}
	s.stations = append(s.stations, at)
	return nil
}

// equip describes the server of a station.
func (s *site) equip(at *station, program, log string, keys server.Keys) error {
	u, err := url.Parse(s.url)
	if err != nil {
		return err
	}
	u.Host = at.proxy.Address()
	at.server, err = server.NewProcess(program, u.String(), log, keys, server.Place{
		Address: at.host.Address + ":6443",
		Start: func(cmd *exec.Cmd) error {
			if !s.jumps {
				return at.host.Do(cmd.Start)
			}
			return at.host.Do(func() error { return watched(at.calls, cmd, true) })
		},
	})
	return err
}

func (s *site) close() {
	for _, at := range s.stations {
		if at.server != nil {
			at.server.Kill()
		}
		at.proxy.Close()
		at.host.Remove()
	}
	if s.database != nil {
		_ = s.database.Remove() // the folder of all goes too
	}
}

// Names of faults after which history may be gone.
const (
	compaction   = "compaction"
	databaseKill = "database kill"
	fullDatabase = "database full disk"
)

// faults are what can go wrong at a site, by name. What is of one server is of
// any of them.
func (s *site) faults() map[string]func(ctx context.Context) error {
	all := map[string]func(ctx context.Context) error{
		compaction:              s.compact,
		"database restart":      func(context.Context) error { return s.again(s.database.Quit) },
		databaseKill:            func(context.Context) error { return s.again(s.database.Kill) },
		"database paused":       s.databasePaused,
		"database stalled disk": s.databaseStalledDisk,
		fullDatabase:            s.databaseFullDisk,
	}
	for _, k := range []disk.Kind{disk.Write, disk.Sync} {
		all[fmt.Sprintf("%s at %s", databaseKill, k)] = func(ctx context.Context) error { return s.databaseKillAt(ctx, k) }
	}
	for name, fault := range map[string]func(*site, context.Context, *station) error{
		"restart":         (*site).restart,
		"kill":            (*site).kill,
		"kill at message": func(s *site, ctx context.Context, at *station) error { return s.killAt(ctx, at, false) },
		"kill at answer":  func(s *site, ctx context.Context, at *station) error { return s.killAt(ctx, at, true) },
		"paused":          func(s *site, ctx context.Context, at *station) error { return paused(ctx, at.server, s.random) },
		"partition":       (*site).partition,
		"connections cut": func(_ *site, _ context.Context, at *station) error { at.proxy.Cut(); return nil },
		"cut at message":  func(s *site, ctx context.Context, at *station) error { return s.cutAt(ctx, at, false) },
		"cut at answer":   func(s *site, ctx context.Context, at *station) error { return s.cutAt(ctx, at, true) },
		"silence":         (*site).silence,
		clockJump:         func(s *site, _ context.Context, at *station) error { jump(at.calls, s.random); return nil },
	} {
		all[name] = func(ctx context.Context) error {
			return fault(s, ctx, s.stations[s.random.IntN(len(s.stations))])
		}
	}
	return all
}

// compact forgets all history by way of a connection of our own.
func (s *site) compact(ctx context.Context) error {
	b, err := engines.Open(s.url)
	if err != nil {
		return err
	}
	revision, err := b.Revision(ctx)
	if err == nil {
		err = b.Compact(ctx, revision)
	}
	return errors.Join(err, b.Close())
}

// again ends the database and starts it.
func (s *site) again(end func() error) error {
	if err := end(); err != nil {
		return err
	}
	return s.database.Start()
}

func (s *site) databaseKillAt(ctx context.Context, k disk.Kind) error {
	if err := whenCalled(ctx, s.disk, s.random, k, disk.Verdict{Kill: true}); err != nil {
		return err
	}
	<-s.database.Ended()
	s.disk.Judge(nil)
	return s.database.Start()
}

// databasePaused is a database that gets no processor for a while.
func (s *site) databasePaused(ctx context.Context) error {
	if err := s.database.Signal(unix.SIGSTOP); err != nil {
		return err
	}
	err := wait(ctx, time.Duration(some(s.random, 3))*time.Second)
	return errors.Join(err, s.database.Signal(unix.SIGCONT))
}

func (s *site) databaseStalledDisk(ctx context.Context) error {
	return stalled(ctx, s.disk, s.random)
}

// databaseFullDisk refuses writes for a while. A database that ends because of
// that is started again when there is room.
func (s *site) databaseFullDisk(ctx context.Context) error {
	err := errors.Join(full(ctx, s.disk, s.random), wait(ctx, time.Second)) // it may be about to end
	if err == nil && s.database.Wait() != nil {
		err = s.database.Start()
	}
	return err
}

func (s *site) restart(ctx context.Context, at *station) error {
	at.server.Stop()
	return at.server.Start(ctx)
}

func (s *site) kill(ctx context.Context, at *station) error {
	at.server.Kill()
	return at.server.Start(ctx)
}

// killAt kills a server when it has said something to the database, before that
// has been told or answered.
func (s *site) killAt(ctx context.Context, at *station, answered bool) error {
	if err := await(ctx, at.proxy.At(some(s.random, 40), answered, at.server.Kill), "the database"); err != nil {
		return err
	}
	return at.server.Start(ctx)
}

func (s *site) cutAt(ctx context.Context, at *station, answered bool) error {
	return await(ctx, at.proxy.At(some(s.random, 40), answered, func() {}), "the database")
}

// partition takes the link between a server and the database down for a while,
// at times for longer than what was sent is sent again.
func (s *site) partition(ctx context.Context, at *station) error {
	if err := at.host.Part(); err != nil {
		return err
	}
	return errors.Join(wait(ctx, time.Duration(some(s.random, 8))*time.Second), at.host.Join())
}

// silence is a way on which nothing comes through for a while, and nothing that
// is sent is lost.
func (s *site) silence(ctx context.Context, at *station) error {
	at.proxy.Hold()
	defer at.proxy.Release()
	return wait(ctx, time.Duration(some(s.random, 4))*time.Second)
}
