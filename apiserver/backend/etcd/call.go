package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

const (
	// patience is how long a request is made again and again while etcd does not answer. Members elect a new leader in
	// one to two seconds; a connection that has gone silent is given up after aliveEvery and aliveTimeout.
	patience = 15 * time.Second
	// readAttempt is how long an answer that can be asked for again is waited for at first, and twice as long each
	// time, so that a member which is stopped holds up nothing for long.
	readAttempt = 2 * time.Second
	// writeAttempt is longer than a member itself waits for the others (7 s by default).
	writeAttempt = 8 * time.Second
	// Bounds of the pause between two attempts.
	firstPause, lastPause = 10 * time.Millisecond, 500 * time.Millisecond
)

// again says whether a request can be made again when nobody knows whether it was carried out.
type again int

const (
	// repeatable: it changes nothing, or nothing that matters.
	repeatable again = iota
	// unlessDone: if it was carried out, a second attempt fails with backend.ErrConflict.
	unlessDone
	// once: it might be carried out twice.
	once
)

// UnknownError says that a write may or may not have happened, or may happen yet.
type UnknownError struct {
	Cause error // why there was no answer
}

func (e *UnknownError) Error() string {
	return "it is not known whether etcd wrote: " + e.Cause.Error()
}

func (e *UnknownError) Unwrap() error { return e.Cause }

// call makes a request, and makes it again while it was not carried out and can be. The errors are those of package
// backend, what etcd says against the request, *UnknownError, and that of ctx.
func (b *Backend) call(ctx context.Context, how again, request func(context.Context) error) error {
	since := time.Now() // there was no sign of life
	var unknown error   // why an attempt may have been carried out
	for n := 0; ; n++ {
		err := b.try(ctx, how, n, request)
		switch verdict := judge(err); {
		case err == nil:
			return nil
		case b.ctx.Err() != nil:
			return backend.ErrClosed
		case verdict == answered && unknown != nil:
			// A conflict may be with the attempt before.
			return &UnknownError{fmt.Errorf("%w; asked again, it said: %v", unknown, err)}
		case verdict == answered:
			return translate(err)
		case verdict == uncertain && how != repeatable:
			unknown = err
		case errors.Is(err, rpctypes.ErrTooManyRequests):
			since = time.Now() // it is there, and will come to it
		}
		if unknown != nil && how == once || time.Since(since) >= patience || !pause(ctx, n) {
			return b.failed(ctx, since, err, unknown)
		}
	}
}

// failed is the error of a request that is given up.
func (b *Backend) failed(ctx context.Context, since time.Time, last, unknown error) error {
	err := fmt.Errorf("etcd at %s, asked for %s: %w", strings.Join(b.client.Endpoints(), ", "), time.Since(since).Round(time.Millisecond), last)
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	if unknown != nil {
		return &UnknownError{err}
	}
	return err
}

// try makes one attempt.
func (b *Backend) try(ctx context.Context, how again, n int, request func(context.Context) error) error {
	limit := patience
	switch how {
	case repeatable:
		limit = readAttempt << min(n, 4)
	case unlessDone:
		limit = writeAttempt
	}
	ctx, cancel := context.WithTimeout(clientv3.WithRequireLeader(ctx), limit)
	defer cancel()
	return request(ctx)
}

// pause waits before attempt n is followed by another; false if ctx ends first.
func pause(ctx context.Context, n int) bool {
	d := min(firstPause<<min(n, 10), lastPause)
	timer := time.NewTimer(d/2 + rand.N(d/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// verdict is what an attempt came to.
type verdict int

const (
	answered  verdict = iota // it was carried out, or refused for good
	refused                  // it was not carried out, and the next one may be
	uncertain                // nobody knows
)

// unbegun are what etcd says of requests that it did not begin to carry out.
var unbegun = []error{rpctypes.ErrTooManyRequests, rpctypes.ErrNoLeader, rpctypes.ErrNotLeader, rpctypes.ErrNotCapable}

func judge(err error) verdict {
	if err == nil || errors.Is(err, backend.ErrConflict) {
		return answered
	}
	if slices.ContainsFunc(unbegun, func(e error) bool { return errors.Is(err, e) }) || unsent(err) {
		return refused
	}
	switch code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
		return uncertain
	}
	return answered
}

// unsent reports whether there was no connection to send a request over.
func unsent(err error) bool {
	return code(err) == codes.Unavailable && strings.Contains(err.Error(), "Error while dialing")
}

func code(err error) codes.Code {
	var of rpctypes.EtcdError
	switch {
	case errors.As(err, &of):
		return of.Code()
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	}
	return status.Code(err)
}

// translate makes the errors of etcd those of the contract, where it has them.
func translate(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return backend.ErrCompacted
	case errors.Is(err, rpctypes.ErrFutureRev):
		return backend.ErrFuture
	}
	return err
}
