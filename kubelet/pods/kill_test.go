package pods

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/kubelet/runtime"
)

func TestSidecarsStopLastAndInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := &v1.PodSpec{InitContainers: []v1.Container{side("s1"), c("i"), side("s2")}, Containers: []v1.Container{c("a"), c("b")}}
		o := newOrder(spec, []runtime.Container{up("a"), up("s1"), up("s2")})
		began := time.Now()
		stop := func(name string, takes time.Duration) <-chan time.Duration {
			at := make(chan time.Duration, 1)
			go func() {
				o.turn(t.Context(), name, time.Minute)
				at <- time.Since(began)
				time.Sleep(takes)
				o.stopped(name)
			}()
			return at
		}
		s1, s2, a := stop("s1", 0), stop("s2", 3*time.Second), stop("a", 5*time.Second)
		for name, want := range map[string]time.Duration{"a": 0, "s2": 5 * time.Second, "s1": 8 * time.Second} {
			if got := <-map[string]<-chan time.Duration{"a": a, "s1": s1, "s2": s2}[name]; got != want {
				t.Errorf("%s was stopped after %v, want %v", name, got, want)
			}
		}
	})
}

func TestSidecarDoesNotWaitBeyondItsGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		spec := &v1.PodSpec{InitContainers: []v1.Container{side("s")}, Containers: []v1.Container{c("a")}}
		o := newOrder(spec, []runtime.Container{up("a"), up("s")})
		began := time.Now()
		o.turn(t.Context(), "s", 10*time.Second)
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("waited %v for a container that never stops, want the grace of 10s", waited)
		}
	})
}
