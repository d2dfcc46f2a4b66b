package nodes

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// TestAThousandNodesAtOnce registers nodes as kubelets do, all in the same moment, and counts how often the loop
// looks at one.
func TestAThousandNodesAtOnce(t *testing.T) {
	const many = 1000
	server := apiservertest.Start(t, nil)
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(server, "admin"))
	factory := informers.NewSharedInformerFactory(client, 0)
	loop, err := Health(Deps{
		Client: client, Informers: factory, Workers: 5,
		Recorder: func(string) record.EventRecorder { return record.NewFakeRecorder(10 * many) },
	}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	var syncs atomic.Int64
	once := loop.Sync
	loop.Sync = func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
		syncs.Add(1)
		return once(ctx, key)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := loop.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	factory.Start(ctx.Done())
	t.Cleanup(func() { stop(); running.Wait(); factory.Shutdown() })

	var kubelets sync.WaitGroup
	names := make(chan string)
	for range 20 {
		kubelets.Go(func() {
			for name := range names {
				if err := register(ctx, client, name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range many {
		names <- fmt.Sprintf("node-%04d", i)
	}
	close(names)
	kubelets.Wait()

	awaitUntainted(t, client)
	// A node comes, is ready, and loses its taint: three changes, and some slack for conflicts that are retried.
	if got := syncs.Load(); got > 6*many {
		t.Errorf("got %d looks at %d nodes", got, many)
	}

	before := syncs.Load()
	if err := register(ctx, client, "one-more"); err != nil {
		t.Fatal(err)
	}
	awaitUntainted(t, client)
	// Looks for the last changes of the thousand may be among them; woken all together, they would be a thousand more.
	if got := syncs.Load() - before; got > many/2 {
		t.Errorf("got %d looks at nodes because of one more", got)
	}
}

// awaitUntainted returns when the loop has taken off the taint that every node is admitted with: then it has looked
// at all. No node may be marked Unknown by that.
func awaitUntainted(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		list, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		tainted, unknown := 0, 0
		for i := range list.Items {
			if len(list.Items[i].Spec.Taints) > 0 {
				tainted++
			}
			if c := condition(&list.Items[i], corev1.NodeReady); c != nil && c.Status == corev1.ConditionUnknown {
				unknown++
			}
		}
		switch {
		case unknown > 0:
			t.Fatalf("%d of %d living nodes are marked Unknown", unknown, len(list.Items))
		case tainted == 0:
			return
		case time.Now().After(deadline):
			t.Fatalf("%d nodes are still tainted", tainted)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// register does what a kubelet does that starts. By the node's clock, which may be anything, that was an hour ago.
func register(ctx context.Context, client kubernetes.Interface, name string) error {
	node, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	node.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.NewTime(time.Now().Add(-time.Hour)),
	}}
	node.ResourceVersion = ""
	_, err = client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}
