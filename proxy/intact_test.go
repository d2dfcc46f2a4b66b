package proxy

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// robbed is a Backend whose rules another program takes away.
type robbed struct {
	sync.Mutex
	applied int
	gone    bool   // the rules are, and
	missed  bool   // the backend knows
	forgot  []bool // for each call of Forget: whether it was told what was before
}

func (r *robbed) Apply(context.Context, *Table) error {
	r.Lock()
	defer r.Unlock()
	if r.applied == 0 || r.missed {
		r.applied++
		r.gone, r.missed = false, false
	}
	return nil
}

func (r *robbed) Intact(context.Context) (bool, error) {
	r.Lock()
	defer r.Unlock()
	r.missed = r.gone
	return !r.gone, nil
}

func (r *robbed) Remove(context.Context) error { return nil }

func (r *robbed) Forget(_ context.Context, last, _ *Table) error {
	r.Lock()
	defer r.Unlock()
	r.forgot = append(r.forgot, last != nil)
	return nil
}

// rob takes the rules away and returns what was done until then.
func (r *robbed) rob() (applied int, forgot []bool) {
	r.Lock()
	defer r.Unlock()
	r.gone = true
	return r.applied, slices.Clone(r.forgot)
}

// TestRunRestores takes the rules away: they come back by themselves within half a
// minute, also while Services keep changing, and flows that began meanwhile are
// forgotten.
func TestRunRestores(t *testing.T) {
	for name, busy := range map[string]bool{"nothing changes": false, "services change": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset()
				backend := &robbed{}
				p, err := New(Config{Client: client, NodeName: "n", Backend: backend, Connections: backend})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error, 1)
				go func() { ended <- p.Run(ctx) }()
				time.Sleep(time.Second)
				synctest.Wait()
				if times, _ := backend.rob(); times != 1 {
					t.Fatalf("applied %d times at the start, want once", times)
				}
				for i := range 29 {
					time.Sleep(time.Second)
					if busy {
						s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: string(rune('a' + i))}}
						if _, err := client.CoreV1().Services("ns").Create(ctx, s, metav1.CreateOptions{}); err != nil {
							t.Fatal(err)
						}
					}
				}
				synctest.Wait()
				times, forgot := backend.rob()
				if times != 2 {
					t.Errorf("applied %d times half a minute after the rules were gone, want twice", times)
				}
				unknown := 0
				for _, told := range forgot {
					if !told {
						unknown++
					}
				}
				if unknown != 2 { // at the start and after the loss
					t.Errorf("flows of unknown origin were forgotten %d times, want 2", unknown)
				}
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
