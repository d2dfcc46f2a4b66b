package etcd

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// What is made again, and what is told of it: answers one after the other, the last for ever.
func TestCall(t *testing.T) {
	busy, lost, full := rpctypes.ErrTooManyRequests, rpctypes.ErrTimeout, rpctypes.ErrNoSpace
	unknown := errors.New("an UnknownError")
	many := make([]error, 200)
	for i := range many {
		many[i] = busy
	}
	for _, c := range []struct {
		name    string
		how     again
		answers []error
		want    error
	}{
		{"answered", once, []error{nil}, nil},
		{"refused for good", once, []error{full}, full},
		{"conflict", unlessDone, []error{backend.ErrConflict}, backend.ErrConflict},
		{"compacted", repeatable, []error{rpctypes.ErrCompacted}, backend.ErrCompacted},
		{"busy for long", once, append(many, nil), nil},
		{"busy, then a conflict", unlessDone, []error{busy, backend.ErrConflict}, backend.ErrConflict},
		{"without a leader, then one", once, []error{rpctypes.ErrNoLeader, nil}, nil},
		{"no answer to a read", repeatable, []error{lost, lost, nil}, nil},
		{"no answer to a write that cannot be made twice", once, []error{lost, nil}, unknown},
		{"no answer to a write that can", unlessDone, []error{lost, nil}, nil},
		{"no answer, and it was made perhaps", unlessDone, []error{lost, backend.ErrConflict}, unknown},
		{"no answer, then refused", unlessDone, []error{lost, full}, unknown},
		{"never an answer to a read", repeatable, []error{lost}, lost},
		{"never an answer to a write", unlessDone, []error{lost}, unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &Backend{client: clientv3.NewCtxClient(t.Context()), ctx: t.Context()}
				n := 0
				err := b.call(t.Context(), c.how, func(context.Context) error {
					n++
					return c.answers[min(n, len(c.answers))-1]
				})
				is := (*UnknownError)(nil)
				switch {
				case errors.As(err, &is) != (c.want == unknown):
					t.Errorf("got %v, want %v", err, c.want)
				case c.want != unknown && !errors.Is(err, c.want), c.want == unknown && errors.Is(err, backend.ErrConflict):
					t.Errorf("got %v, want %v", err, c.want)
				}
			})
		})
	}
}
