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
)

// scale is how much load there is.
type scale struct {
	connections int
	idle        time.Duration // before memory is looked at
	limit       time.Duration // of one measurement: what is slower does less
	objects     int           // created, then updated, by each of the numbers of workers
	workers     []int
	readers     int
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
	objects: 2000, workers: []int{1, 16, 64}, readers: 16, pods: 5000, listers: 2,
	watchers: 200, burst: 500, paced: 400, pace: 40 * time.Millisecond, // of 400 updates, the p99 is that of the fourth worst
}

// divided is a load by so much smaller, with as many workers.
func (s scale) divided(by int) scale {
	s.idle /= time.Duration(by)
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
		{"maps", l.gets},
		{"pods", l.lists},
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
		created, err := work(ctx, workers, len(made), l.scale.limit, func(ctx context.Context, worker, job int) (err error) {
			made[job], err = l.create(ctx, worker, fmt.Sprintf("map-%d-%d", workers, job))
			return err
		})
		if err != nil {
			return err
		}
		updated, err := work(ctx, workers, len(created.took), l.scale.limit, func(ctx context.Context, worker, job int) error {
			made[job].Data["payload"] = payload()
			_, err := l.client(worker).CoreV1().ConfigMaps(l.space).Update(ctx, made[job], metav1.UpdateOptions{})
			return err
		})
		if err != nil {
			return err
		}
		l.addOutcome(fmt.Sprintf("create ConfigMaps of 1 KiB, %s", plural(workers, "worker")), created, 0.99)
		l.addOutcome(fmt.Sprintf("update them, %s", plural(workers, "worker")), updated, 0.99)
	}
	return nil
}

func (l *load) addOutcome(row string, o outcome, q float64) {
	l.add(row, perSecond, o.rate())
	l.add(fmt.Sprintf("%s: p%g", row, q*100), millis, inMillis(quantile(o.took, q)))
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

// gets reads the ConfigMaps that the most workers have made, whole and decoded.
func (l *load) gets(ctx context.Context) error {
	most := l.scale.workers[len(l.scale.workers)-1]
	o, err := work(ctx, l.scale.readers, 20*l.scale.objects, l.scale.limit, func(ctx context.Context, worker, job int) error {
		name := fmt.Sprintf("map-%d-%d", most, rand.IntN(l.scale.objects/10))
		_, err := l.client(worker).CoreV1().ConfigMaps(l.space).Get(ctx, name, metav1.GetOptions{})
		return err
	})
	l.addOutcome("get one, "+plural(l.scale.readers, "worker"), o, 0.99)
	return err
}

// lists reads all pods at once, consistently. Answers are read but not decoded,
// which would take the client longer than the server.
func (l *load) lists(ctx context.Context) error {
	created, err := work(ctx, 64, l.scale.pods, time.Minute, func(ctx context.Context, worker, job int) error {
		_, err := l.client(worker).CoreV1().Pods(l.space).Create(ctx, pod(job), metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	l.addOutcome("create pods, 64 workers", created, 0.99)
	what := fmt.Sprintf("list of %d pods", l.scale.pods)
	if err := l.list(ctx, what, "identity"); err != nil {
		return err
	}
	return l.list(ctx, what+", gzip", "gzip")
}

func (l *load) list(ctx context.Context, row, encoding string) error {
	size := make([]int, l.scale.listers)
	o, err := work(ctx, l.scale.listers, 10000, l.scale.limit, func(ctx context.Context, worker, _ int) error {
		answer, err := l.client(worker).CoreV1().RESTClient().Get().Namespace(l.space).Resource("pods").
			SetHeader("Accept-Encoding", encoding).DoRaw(ctx)
		size[worker] = len(answer)
		return err
	})
	l.addOutcome(row+", "+plural(l.scale.listers, "worker"), o, 0.5)
	l.add(row+": size", mebibytes, float64(size[0])/(1<<20))
	return err
}

// payload is nearly 1 KiB that does not compress well.
func payload() string {
	raw := make([]byte, 500)
	for i := range raw {
		raw[i] = byte(rand.Uint32())
	}
	return hex.EncodeToString(raw)
}
