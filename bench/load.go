package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/bench/quantile"
)

// scale is how much load there is.
type scale struct {
	connections int
	idle        time.Duration // before memory is looked at
	rest        time.Duration // after the load, before memory is looked at again
	limit       time.Duration // of one measurement: what is slower does less
	objects     int           // created, then updated, by each of the numbers of workers
	workers     []int
	podWorkers  int
	pods        int
	listers     int
	watchers    int
	burst       int           // updates as fast as they go
	paced       int           // updates at a fixed pace
	pace        time.Duration // between two of them
	extensions  extensions
}

var full = scale{
	connections: 8, idle: 8 * time.Second, limit: 4 * time.Second,
	rest: time.Minute, objects: 2000, workers: []int{1, 16}, podWorkers: 16, pods: 5000, listers: 2,
	watchers: 200, burst: 500, paced: 400, pace: 40 * time.Millisecond, // of 400 updates, the p99 is that of the fourth worst
}

// divided is a load by so much smaller, with as many workers.
func (s scale) divided(by int) scale {
	s.idle /= time.Duration(by)
	s.rest /= time.Duration(by)
	s.limit /= time.Duration(by)
	s.objects /= by
	s.pods /= by
	s.watchers /= by
	s.burst /= by
	s.paced /= by
	s.extensions = s.extensions.divided(by)
	return s
}

// load puts load on one server and keeps the figures.
type load struct {
	scale   scale
	server  *subject
	clients []kubernetes.Interface
	figures []figure
	space   string // namespace of the step
}

func (l *load) add(row string, u unit, value float64) {
	l.figures = append(l.figures, figure{row, u, value})
}

func (l *load) addStart(ctx context.Context, row string, s *subject) error {
	took, err := s.start(ctx, l.clients[0])
	l.add(row, seconds, took.Seconds())
	return err
}

func (l *load) addMemory(row string, s *subject, field string) error {
	n, err := s.memory(field)
	l.add(row, mebibytes, float64(n)/(1<<20))
	return err
}

func (l *load) addCPU(row string, s *subject) error {
	n, err := s.cpu()
	l.add(row, seconds, n.Seconds())
	return err
}

func (l *load) addDisk(s *subject) error {
	if !s.durable {
		return nil
	}
	n, err := s.disk()
	l.add("on disk after the load", mebibytes, float64(n)/(1<<20))
	return err
}

// client is the client of a worker: workers share the connections evenly.
func (l *load) client(worker int) kubernetes.Interface { return l.clients[worker%len(l.clients)] }

// run puts all loads on the server, one after the other.
func (l *load) run(ctx context.Context) error {
	for _, step := range []struct {
		space string
		run   func(context.Context) error
	}{
		{"warm", l.warm},
		{"maps", l.writes},
		{"pods", l.pods},
		{"watched", l.watches},
	} {
		l.space = step.space
		if err := l.prepare(ctx); err != nil {
			return fmt.Errorf("prepare namespace %s: %w", l.space, err)
		}
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("in namespace %s: %w", l.space, err)
		}
	}
	return nil
}

// warm uses every connection, so that opening them is not measured.
func (l *load) warm(ctx context.Context) error {
	_, err := work(ctx, len(l.clients), 20*len(l.clients), l.scale.limit, func(ctx context.Context, worker, job int) error {
		_, err := l.create(ctx, worker, "warm-"+strconv.Itoa(job))
		return err
	})
	return err
}

// writes creates and updates ConfigMaps of 1 KiB. Each is updated once, at the
// resourceVersion it was created at: there are no conflicts.
func (l *load) writes(ctx context.Context) error {
	for _, workers := range l.scale.workers {
		made := make([]*v1.ConfigMap, l.scale.objects)
		created, err := l.measure(ctx, "create ConfigMaps of 1 KiB, "+plural(workers, "worker"), workers, len(made), func(ctx context.Context, worker, job int) (err error) {
			made[job], err = l.create(ctx, worker, fmt.Sprintf("map-%d-%d", workers, job))
			return err
		})
		if err != nil {
			return err
		}
		_, err = l.measure(ctx, "update them, "+plural(workers, "worker"), workers, len(created.took), func(ctx context.Context, worker, job int) error {
			made[job].Data["payload"] = payload()
			_, err := l.client(worker).CoreV1().ConfigMaps(l.space).Update(ctx, made[job], metav1.UpdateOptions{})
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// measure does jobs as work does, and says how fast they went and what one cost the server: its processor time is what
// the client beside it does not blur.
func (l *load) measure(ctx context.Context, row string, workers, n int, do func(ctx context.Context, worker, job int) error) (outcome, error) {
	before, err := l.server.cpu()
	if err != nil {
		return outcome{}, err
	}
	o, err := work(ctx, workers, n, l.scale.limit, do)
	if err != nil {
		return o, err
	}
	after, err := l.server.cpu()
	if err != nil {
		return o, err
	}
	l.addOutcome(row, o, 0.99)
	l.addCost(row+": CPU of the server for one", after-before, len(o.took))
	return o, nil
}

func (l *load) addCost(row string, spent time.Duration, n int) {
	l.add(row, micros, float64(spent.Microseconds())/float64(max(1, n)))
}

func (l *load) addOutcome(row string, o outcome, q float64) {
	l.add(row, perSecond, o.rate())
	l.add(fmt.Sprintf("%s: p%g", row, q*100), millis, inMillis(quantile.Of(o.took, q)))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (l *load) create(ctx context.Context, worker int, name string) (*v1.ConfigMap, error) {
	return l.client(worker).CoreV1().ConfigMaps(l.space).Create(ctx, &v1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench"}},
		Data:       map[string]string{"payload": payload()},
	}, metav1.CreateOptions{})
}

// payload is nearly 1 KiB that does not compress well.
func payload() string {
	raw := make([]byte, 500)
	for i := range raw {
		raw[i] = byte(rand.Uint32())
	}
	return hex.EncodeToString(raw)
}
