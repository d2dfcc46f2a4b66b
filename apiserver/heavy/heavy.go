// Package heavy runs the work on an object that grows faster than the object
// and that nothing can stop: the merges and the field sets of apimachinery
// take a time that is quadratic in what stands side by side in an object. Work
// ends with its request for the client, has a share of its own, and is refused
// when it would take longer than a request may.
package heavy

import (
	"context"
	"fmt"
	"reflect"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skiff-k8s/skiff/guard"
)

// Cost is about the nanoseconds that work takes.
type Cost int64

const (
	// light work is done at once, by the request itself.
	light Cost = 20e6
	// Most is the cost of what is still done. Field sets of all that fits into
	// 1.5 MiB, which is what etcd and so other clusters store, cost less.
	Most Cost = 5e9
)

// Runner limits heavy work. The zero value lets all work go on at once.
type Runner struct {
	// Take takes a place for heavy work of the request of ctx, which is given back
	// when the work is over, be the request so or not. ok is false if there is none.
	Take func(ctx context.Context) (release func(), ok bool)
}

// Do runs work of a cost. It returns early, with an error, when ctx ends: work
// then goes on and must change nothing that others have.
func (r Runner) Do(ctx context.Context, cost Cost, work func() error) error {
	switch {
	case ctx.Err() != nil:
		return Timeout(ctx)
	case cost <= light:
		return work()
	case cost > Most:
		return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"too many elements side by side: about %d times as much work as is done for a request", 1+cost/Most))
	}
	release, ok := func() {}, true
	if r.Take != nil {
		release, ok = r.Take(ctx)
	}
	if !ok {
		return apierrors.NewTooManyRequests("too many large requests, please try again later", 1)
	}
	done := make(chan outcome, 1)
	guard.Go("heavy work", func() {
		defer release()
		done <- run(work)
	})
	select {
	case o := <-done:
		if o.panic != nil {
			panic(o.panic) // as if the request had done the work itself
		}
		return o.err
	case <-ctx.Done():
		return Timeout(ctx)
	}
}

type outcome struct {
	err   error
	panic any
}

func run(work func() error) (o outcome) {
	defer func() { o.panic = recover() }()
	return outcome{err: work()}
}

// Timeout is the error of a request whose context has ended.
func Timeout(ctx context.Context) error {
	if context.Cause(ctx) == context.Canceled {
		return ctx.Err() // nobody waits for an answer
	}
	return apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
}

// Fields is the cost of the field set of a value: an insertion moves half of
// what stands beside it.
func Fields(value any) Cost { return fields(reflect.ValueOf(value)) }

var times = reflect.TypeFor[time.Time]()

func fields(v reflect.Value) Cost {
	var cost Cost
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return fields(v.Elem()) // of the invalid value if nil
	case reflect.Struct:
		if v.Type() == times {
			return 0
		}
		for i := range v.NumField() {
			cost += fields(v.Field(i))
		}
	case reflect.Map:
		cost = Squared(v.Len())
		if flat(v.Type().Elem()) {
			return cost
		}
		for i := v.MapRange(); i.Next(); {
			cost += fields(i.Value())
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return 0
		}
		cost = Squared(v.Len())
		if flat(v.Type().Elem()) {
			return cost
		}
		for i := range v.Len() {
			cost += fields(v.Index(i))
		}
	}
	return cost
}

// flat reports whether values of a type have nothing below them that costs.
func flat(t reflect.Type) bool {
	return t.Kind() < reflect.Array || t.Kind() == reflect.String || t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
}

// Squared is n squared.
func Squared(n int) Cost { return Cost(n) * Cost(n) }
