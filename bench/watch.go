package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/bench/quantile"
)

// watches updates one ConfigMap of 1 KiB that many watch: first as fast as one
// client can, which shows how many events a second there are; then at a fixed
// pace, which shows how late they are when the server is not overrun.
func (l *load) watches(ctx context.Context) error {
	watched, err := l.create(ctx, 0, "watched")
	if err != nil {
		return err
	}
	before, err := l.server.cpu()
	if err != nil {
		return err
	}
	burst, version, err := l.fanOut(ctx, watched.ResourceVersion, l.scale.burst, 0)
	if err != nil {
		return err
	}
	after, err := l.server.cpu()
	if err != nil {
		return err
	}
	row := fmt.Sprintf("%d watchers, %d updates: events", l.scale.watchers, l.scale.burst)
	l.add(row, perSecond, burst.rate())
	l.addCost(row+": CPU of the server for one", after-before, len(burst.took))
	paced, _, err := l.fanOut(ctx, version, l.scale.paced, l.scale.pace)
	if err != nil {
		return err
	}
	for _, q := range []float64{0.5, 0.99} {
		row := fmt.Sprintf("%d watchers, %d updates/s: lag, p%g", l.scale.watchers, time.Second/l.scale.pace, q*100)
		l.add(row, millis, inMillis(quantile.Of(paced.took, q)))
	}
	return nil
}

// fanOut lets all watchers see so many updates, made at the given pace, and
// returns how long after they were sent they came, and the last
// resourceVersion. Every watcher must have seen every update.
func (l *load) fanOut(ctx context.Context, version string, updates int, pace time.Duration) (outcome, string, error) {
	lags := make([][]time.Duration, l.scale.watchers)
	watching := make(chan struct{}, l.scale.watchers)
	epoch := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for w := range l.scale.watchers {
		g.Go(func() error {
			return l.follow(ctx, w, version, watching, func(m *v1.ConfigMap) (done bool, err error) {
				sent, err := strconv.ParseInt(m.Data["sent"], 10, 64)
				lags[w] = append(lags[w], time.Since(epoch)-time.Duration(sent))
				return len(lags[w]) == updates, err
			})
		})
	}
	var began time.Time
	g.Go(func() (err error) {
		for range l.scale.watchers {
			select {
			case <-watching:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		began = time.Now()
		version, err = l.updates(ctx, epoch, updates, pace)
		return err
	})
	err := g.Wait()
	o := outcome{elapsed: time.Since(began), took: slices.Concat(lags...)}
	slices.Sort(o.took)
	return o, version, err
}

// updates changes the watched object; "sent" in it is when, since epoch.
func (l *load) updates(ctx context.Context, epoch time.Time, n int, pace time.Duration) (version string, err error) {
	began, text := time.Now(), payload()
	for i := range n {
		if err := pause(ctx, time.Until(began.Add(time.Duration(i)*pace))); err != nil {
			return "", err
		}
		m, err := l.clients[0].CoreV1().ConfigMaps(l.space).Update(ctx, &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: "watched"},
			Data:       map[string]string{"payload": text, "sent": strconv.FormatInt(int64(time.Since(epoch)), 10)},
		}, metav1.UpdateOptions{})
		if err != nil {
			return "", err
		}
		version = m.ResourceVersion
	}
	return version, nil
}

// follow watches from version on until see says that it is done. Servers may
// end a watch whose client is slow; it goes on where it was. The first watch is
// told to watching.
func (l *load) follow(ctx context.Context, worker int, version string, watching chan<- struct{}, see func(*v1.ConfigMap) (bool, error)) error {
	for {
		w, err := l.client(worker).CoreV1().ConfigMaps(l.space).Watch(ctx, metav1.ListOptions{ResourceVersion: version})
		if err != nil {
			return err
		}
		if watching != nil {
			watching <- struct{}{}
			watching = nil
		}
		for e := range w.ResultChan() {
			m, ok := e.Object.(*v1.ConfigMap)
			if !ok {
				w.Stop()
				return apierrors.FromObject(e.Object)
			}
			version = m.ResourceVersion
			if done, err := see(m); done || err != nil {
				w.Stop()
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}
