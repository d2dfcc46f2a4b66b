package audit

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/client-go/util/flowcontrol"

	"github.com/skiff-k8s/skiff/guard"
)

// sink is where a backend's events end. It is called by several goroutines.
type sink interface {
	// send returns when the events are written, or cannot be.
	send(ctx context.Context, events []*item) error
	close() error
	// parallel is how many calls of send are useful at once.
	parallel() int
}

// backend gives events to a sink at once, or in batches later.
type backend struct {
	name     string
	sink     sink
	delivery Delivery
	failed   func(plugin string, events int, err error)

	// Of a backend that is batched.
	closing  sync.RWMutex // held for reading by who adds to queue
	closed   bool
	queue    chan *item
	throttle flowcontrol.RateLimiter
	places   chan struct{} // one for each batch on its way
	sending  context.Context
	giveUp   context.CancelFunc
	done     chan struct{}
}

func newBackend(name string, s sink, d Delivery, failed func(plugin string, events int, err error)) *backend {
	b := &backend{name: name, sink: s, delivery: d, failed: failed}
	b.sending, b.giveUp = context.WithCancel(context.Background())
	if d.Mode != Batch {
		return b
	}
	b.queue, b.places, b.done = make(chan *item, d.BufferSize), make(chan struct{}, s.parallel()), make(chan struct{})
	b.throttle = flowcontrol.NewFakeAlwaysRateLimiter()
	if d.ThrottleEnable {
		b.throttle = flowcontrol.NewTokenBucketRateLimiter(d.ThrottleQPS, d.ThrottleBurst)
	}
	guard.Go("audit "+name, b.run)
	return b
}

var (
	errFull   = errors.New("the queue of events is full")
	errClosed = errors.New("the audit log is closed")
)

// take reports whether the request that an event is about may go on.
func (b *backend) take(i *item) bool {
	if b.delivery.Mode == Batch {
		if err := b.enqueue(i); err != nil {
			b.failed("buffered", 1, err)
		}
		return true
	}
	return b.deliver([]*item{i}) || b.delivery.Mode != BlockingStrict
}

func (b *backend) enqueue(i *item) error {
	b.closing.RLock()
	defer b.closing.RUnlock()
	if b.closed {
		return errClosed
	}
	select {
	case b.queue <- i:
		return nil
	default:
		return errFull
	}
}

// run sends batches until the queue is closed and empty.
func (b *backend) run() {
	defer close(b.done)
	var sent sync.WaitGroup
	defer sent.Wait()
	for {
		batch, more := b.collect()
		if len(batch) > 0 {
			_ = b.throttle.Wait(b.sending) // it ends with the time to give up, when there is no reason to wait any more
			b.places <- struct{}{}
			sent.Add(1)
			guard.Go("audit "+b.name+" batch", func() {
				defer func() { <-b.places; sent.Done() }()
				b.deliver(batch)
			})
		}
		if !more {
			return
		}
	}
}

// collect waits for an event, and then for others to send with it: until there are enough of them or the first has waited long enough.
// It reports whether there will be more.
func (b *backend) collect() (batch []*item, more bool) {
	first, more := <-b.queue
	if !more {
		return nil, false
	}
	batch = append(batch, first)
	timer := time.NewTimer(b.delivery.MaxBatchWait)
	defer timer.Stop()
	for len(batch) < b.delivery.MaxBatchSize {
		select {
		case i, more := <-b.queue:
			if !more {
				return batch, false
			}
			batch = append(batch, i)
		case <-timer.C:
			return batch, true
		}
	}
	return batch, true
}

// deliver sends events, those that are too large without their objects, and in parts if they are too many bytes together.
func (b *backend) deliver(events []*item) bool {
	if !b.delivery.TruncateEnabled {
		return b.send(events)
	}
	ok, size := true, int64(0)
	var part []*item
	for _, i := range events {
		i, err := i.within(b.delivery.TruncateMaxEventSize)
		if err != nil {
			b.failed("truncate", 1, err)
			continue
		}
		data, _ := i.json() // within has made it
		if len(part) > 0 && size+int64(len(data)) > b.delivery.TruncateMaxBatchSize {
			ok = b.send(part) && ok
			part, size = nil, 0
		}
		part, size = append(part, i), size+int64(len(data))
	}
	return (len(part) == 0 || b.send(part)) && ok
}

func (b *backend) send(events []*item) bool {
	err := b.sink.send(b.sending, events)
	if err != nil {
		b.failed(b.name, len(events), err)
	}
	return err == nil
}

// close sends what is queued, until ctx ends.
func (b *backend) close(ctx context.Context) error {
	defer b.giveUp()
	if b.queue != nil {
		b.closing.Lock()
		wasClosed := b.closed
		b.closed = true
		b.closing.Unlock()
		if !wasClosed {
			close(b.queue)
		}
		defer context.AfterFunc(ctx, b.giveUp)()
		<-b.done
	}
	return b.sink.close()
}
