package proxy

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
)

// slow is a Backend that takes a time for each table.
type slow struct {
	takes time.Duration
	sync.Mutex
	sizes []int // of the tables
}

func (s *slow) Apply(_ context.Context, t *Table) error {
	time.Sleep(s.takes)
	s.Lock()
	defer s.Unlock()
	s.sizes = append(s.sizes, len(t.Rules))
	return nil
}

func (s *slow) Intact(context.Context) (bool, error) { return true, nil }
func (s *slow) Remove(context.Context) error         { return nil }

func (s *slow) applied() []int {
	s.Lock()
	defer s.Unlock()
	return append([]int(nil), s.sizes...)
}

// TestLoneChange makes a Service, and then many while the proxy is busy. The first
// does not wait; the others are applied together.
func TestLoneChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		backend := &slow{}
		p, err := New(Config{Client: client, NodeName: "n", Backend: backend})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		create := func(i int) {
			t.Helper()
			if _, err := client.CoreV1().Services("ns").Create(ctx, numbered(i), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		last := func() int {
			all := backend.applied()
			return all[len(all)-1]
		}
		time.Sleep(time.Minute)
		create(1)
		synctest.Wait() // no time passes
		if last() != 1 {
			t.Errorf("a change that comes alone waits: applied tables of %v", backend.applied())
		}
		backend.takes = time.Second
		create(2)
		synctest.Wait() // the proxy is busy with it
		before := len(backend.applied())
		for i := 3; i < 53; i++ {
			create(i)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if last() != 52 {
			t.Errorf("applied tables of %v, want 52 Rules at the end", backend.applied())
		}
		if n := len(backend.applied()) - before; n != 2 {
			t.Errorf("50 changes while the proxy was busy were applied in %d tables, want the one at hand and one more", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// numbered is a Service with a number.
func numbered(i int) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("s", i)},
		Spec:       corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.96.%d.%d", i/256, i%256), Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}
}

// TestBegin has many Services at the start: all of them are in the first table, and there is no other before
// something changes.
func TestBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 2000
		var objects []runtime.Object
		for i := range many {
			objects = append(objects, numbered(i))
		}
		backend := &slow{}
		p, err := New(Config{Client: fake.NewClientset(objects...), NodeName: "n", Backend: backend})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		synctest.Wait()
		if got := backend.applied(); !slices.Equal(got, []int{many}) {
			t.Errorf("applied tables of %v, want one of %d", got, many)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
