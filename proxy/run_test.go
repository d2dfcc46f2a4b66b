package proxy

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

// tables is a Backend that hands on what it is to apply.
type tables chan *Table

func (t tables) Apply(ctx context.Context, table *Table) error {
	select {
	case t <- table:
	case <-ctx.Done():
	}
	return nil
}

func (t tables) Intact(context.Context) (bool, error) { return true, nil }

func (t tables) Remove(context.Context) error { return nil }

// TestRunFollowsTheZone gives a node a zone: traffic then goes to the endpoint
// that is meant for it.
func TestRunFollowsTheZone(t *testing.T) {
	endpoint := func(address, zone string) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{address}, Hints: &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	client := fake.NewClientset(node,
		&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"},
			Spec:       corev1.ServiceSpec{ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
		},
		&discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "ns", Name: "s-1", Labels: map[string]string{discoveryv1.LabelServiceName: "s"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Port: ptr.To[int32](80), Protocol: ptr.To(corev1.ProtocolTCP)}},
			Endpoints:   []discoveryv1.Endpoint{endpoint("10.0.0.1", "a"), endpoint("10.0.0.2", "b")},
		})
	// The fake API tells a watch nothing of what was before it, so that the test
	// must not change the node earlier.
	watching := make(chan struct{})
	begun := sync.OnceFunc(func() { close(watching) })
	client.PrependWatchReactor("nodes", func(a clienttesting.Action) (bool, watch.Interface, error) {
		w, err := client.Tracker().Watch(a.GetResource(), a.GetNamespace())
		begun()
		return true, w, err
	})
	applied := make(tables)
	p, err := New(Config{Client: client, NodeName: "n", Backend: applied})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	until := func(endpoints int) {
		t.Helper()
		for timeout := time.After(20 * time.Second); ; {
			select {
			case table := <-applied:
				if len(table.Rules) == 1 && len(table.Rules[0].Cluster) == endpoints {
					return
				}
			case <-timeout:
				t.Fatalf("no table with %d endpoints", endpoints)
			}
		}
	}
	until(2)
	<-watching
	labeled := node.DeepCopy()
	labeled.Labels = map[string]string{corev1.LabelTopologyZone: "b"}
	if _, err := client.CoreV1().Nodes().Update(ctx, labeled, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(1)
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestWait has a change come alone after much work, and others while the proxy worked.
func TestWait(t *testing.T) {
	for name, test := range map[string]struct {
		worked, atMost, want time.Duration
		during               bool
	}{
		"a lone change":                   {worked: time.Minute, atMost: time.Hour, want: 5 * time.Millisecond},
		"none":                            {worked: time.Minute, atMost: time.Millisecond, want: time.Millisecond},
		"changes that come all the time":  {worked: 20 * time.Millisecond, atMost: time.Hour, during: true, want: 20 * time.Millisecond},
		"while there was much work":       {worked: time.Minute, atMost: time.Hour, during: true, want: rest},
		"while it failed after much work": {worked: time.Minute, atMost: time.Millisecond, during: true, want: time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &Proxy{changes: newChanges()}
				if test.during {
					p.changes.note("ns/s")
				}
				begun := time.Now()
				time.AfterFunc(5*time.Millisecond, func() { p.changes.note("ns/s") })
				if !p.wait(t.Context(), test.atMost, test.worked) || time.Since(begun) != test.want {
					t.Errorf("got %v, want %v", time.Since(begun), test.want)
				}
				synctest.Wait()
			})
		})
	}
}
