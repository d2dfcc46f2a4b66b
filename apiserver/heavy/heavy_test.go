package heavy_test

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/heavy"
)

// one is a runner with one place.
func one() heavy.Runner {
	places := make(chan struct{}, 1)
	return heavy.Runner{Take: func(context.Context) (func(), bool) {
		select {
		case places <- struct{}{}:
			return func() { <-places }, true
		default:
			return nil, false
		}
	}}
}

const some = heavy.Most / 2

// TestWorkEndsWithItsRequest leaves work running that keeps its place.
func TestWorkEndsWithItsRequest(t *testing.T) {
	r := one()
	ctx, cancel := context.WithDeadline(t.Context(), metav1.Now().Time)
	defer cancel()
	live, end := context.WithCancelCause(t.Context())
	finish, finished := make(chan struct{}), make(chan struct{})
	err := r.Do(live, some, func() error {
		end(context.DeadlineExceeded)
		<-finish
		close(finished)
		return nil
	})
	if !apierrors.IsTimeout(err) {
		t.Errorf("error of a request that is over = %v, want a timeout", err)
	}
	if err := r.Do(t.Context(), some, func() error { return nil }); !apierrors.IsTooManyRequests(err) {
		t.Errorf("error without a place = %v, want too many requests", err)
	}
	if err := r.Do(t.Context(), 1, func() error { return nil }); err != nil {
		t.Errorf("light work needs no place, got %v", err)
	}
	if err := r.Do(ctx, 1, func() error { t.Error("work began after its request"); return nil }); !apierrors.IsTimeout(err) {
		t.Errorf("error after the deadline = %v, want a timeout", err)
	}
	close(finish)
	<-finished
}

func TestPlacesAreGivenBack(t *testing.T) {
	r, failed := one(), errors.New("failed")
	for range 3 {
		if err := r.Do(t.Context(), some, func() error { return failed }); err != failed {
			t.Errorf("error = %v, want that of the work", err)
		}
	}
	func() {
		defer func() {
			if p := recover(); p != "broken" {
				t.Errorf("panic = %v, want that of the work", p)
			}
		}()
		r.Do(t.Context(), some, func() error { panic("broken") })
	}()
	if err := r.Do(t.Context(), some, func() error { return nil }); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func TestTooHeavy(t *testing.T) {
	err := heavy.Runner{}.Do(t.Context(), heavy.Most+1, func() error { t.Error("the work was begun"); return nil })
	if !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("error = %v, want too large", err)
	}
}

func TestFields(t *testing.T) {
	data := map[string]string{}
	for i := range 100 {
		data[string(rune('a'+i))] = ""
	}
	for name, c := range map[string]struct {
		value any
		want  heavy.Cost
	}{
		"nothing":      {nil, 0},
		"a nil object": {(*corev1.Pod)(nil), 0},
		"a map":        {&corev1.ConfigMap{Data: data, ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}}, 100*100 + 1},
		"bytes":        {&corev1.Secret{Data: map[string][]byte{"x": make([]byte, 1000)}}, 1},
		"lists in lists": {&corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Env: make([]corev1.EnvVar, 10)}, {Args: make([]string, 5)}}}}, 4 + 100 + 25},
		"unstructured": {map[string]any{"a": []any{"x", map[string]any{"b": int64(1)}}, "c": nil}, 4 + 4 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := heavy.Fields(c.value); got != c.want {
				t.Errorf("cost = %d, want %d", got, c.want)
			}
		})
	}
}
