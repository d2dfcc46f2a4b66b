package skifftest_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/skifftest"
)

func makeMap(t testing.TB, api kubernetes.Interface, name string) *corev1.ConfigMap {
	t.Helper()
	made, err := api.CoreV1().ConfigMaps("default").Create(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// maps are the names of those that a test has made.
func maps(t testing.TB, api kubernetes.Interface) (names []string) {
	t.Helper()
	list, err := api.CoreV1().ConfigMaps("default").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Items {
		if m.Name != "kube-root-ca.crt" {
			names = append(names, m.Name)
		}
	}
	return names
}

func wantMaps(t testing.TB, api kubernetes.Interface, want ...string) {
	t.Helper()
	if got := maps(t, api); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("there are %q, want %q", got, want)
	}
}

func TestForksAreIndependent(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t)
	shared := makeMap(t, c.Client(), "shared")
	one, two := c.Fork(t), c.Fork(t)
	makeMap(t, c.Client(), "first")
	makeMap(t, one.Client(), "one")
	if err := two.Client().CoreV1().ConfigMaps("default").Delete(t.Context(), "shared", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantMaps(t, c.Client(), "first", "shared")
	wantMaps(t, one.Client(), "one", "shared")
	wantMaps(t, two.Client())
	forked, err := one.Client().CoreV1().ConfigMaps("default").Get(t.Context(), "shared", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if forked.UID != shared.UID || forked.ResourceVersion != shared.ResourceVersion {
		t.Errorf("the fork has %s at %s, not %s at %s", forked.UID, forked.ResourceVersion, shared.UID, shared.ResourceVersion)
	}
}

func TestAForkLivesOn(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t)
	if _, err := c.Client().AppsV1().Deployments("default").Create(t.Context(), deployment("web", 2), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	api := c.Fork(t).Client()
	eventually(t, "the deployment is available in the fork", func() error {
		d, err := api.AppsV1().Deployments("default").Get(t.Context(), "web", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != 2 {
			err = fmt.Errorf("%d are", d.Status.AvailableReplicas)
		}
		return err
	})
	if err := api.AppsV1().Deployments("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is collected there", func() error { return none(t, api, "default") })
}

func TestRestore(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t)
	api := c.Client()
	makeMap(t, api, "before")
	s := c.Snapshot()
	after := makeMap(t, api, "after")
	if err := api.CoreV1().ConfigMaps("default").Delete(t.Context(), "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	running, err := api.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: after.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer running.Stop()
	for range 2 {
		c.Restore(s)
		wantMaps(t, api, "before")
	}
	for range running.ResultChan() { // it ends
	}
	events, err := api.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: after.ResourceVersion})
	if err == nil {
		event := <-events.ResultChan()
		events.Stop()
		err = apierrors.FromObject(event.Object)
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("a watch from before: %v", err)
	}
	if again := makeMap(t, api, "after"); len(again.ResourceVersion) < len(after.ResourceVersion) || again.ResourceVersion <= after.ResourceVersion {
		t.Errorf("the revision went back from %s to %s", after.ResourceVersion, again.ResourceVersion)
	}
}

func TestInformersFollowARestore(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t)
	makeMap(t, c.Client(), "before")
	s := c.Snapshot()
	makeMap(t, c.Client(), "after")
	factory := informers.NewSharedInformerFactory(c.Client(), 0)
	lister := factory.Core().V1().ConfigMaps().Lister().ConfigMaps("default")
	ctx, cancel := context.WithCancel(t.Context())
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	defer cancel()
	has := func(name string) error { _, err := lister.Get(name); return err }
	eventually(t, "the informer has both", func() error { return has("after") })
	c.Restore(s)
	eventually(t, "the informer knows that one is gone", func() error {
		if err := has("after"); apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("it is there")
	})
	if err := has("before"); err != nil {
		t.Error(err)
	}
}

func TestAPortSurvivesARestore(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t)
	config := c.Kubeconfig()
	s := c.Snapshot()
	c.Restore(s)
	if again := c.Kubeconfig(); len(again) == 0 || server(t, again) != server(t, config) {
		t.Errorf("it listens at %s, not at %s", server(t, again), server(t, config))
	}
	eventually(t, "the port answers", func() error {
		_, err := client(t, outside(t, config)).CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		return err
	})
}

var (
	setUps   atomic.Int32
	template = skifftest.NewTemplate(func(t testing.TB, c *skifftest.Cluster) {
		setUps.Add(1)
		makeMap(t, c.Client(), "installed")
	})
)

func TestTemplate(t *testing.T) {
	for range 3 {
		t.Run("fork", func(t *testing.T) {
			t.Parallel()
			c := template.Fork(t)
			makeMap(t, c.Client(), "own")
			wantMaps(t, c.Client(), "installed", "own")
		})
	}
	t.Cleanup(func() {
		if n := setUps.Load(); n != 1 {
			t.Errorf("the template was made %d times", n)
		}
	})
}

func TestASnapshotOutlivesItsCluster(t *testing.T) {
	t.Parallel()
	var s *skifftest.Snapshot
	(&strict{TB: t}).run(func(inner testing.TB) {
		c := skifftest.Start(inner, skifftest.Nodes(0))
		makeMap(inner, c.Client(), "kept")
		s = c.Snapshot()
	})
	wantMaps(t, s.Start(t, skifftest.Nodes(0)).Client(), "kept")
}

func TestLifetimesAreKept(t *testing.T) {
	t.Parallel()
	c := skifftest.Start(t)
	event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "told"}, InvolvedObject: corev1.ObjectReference{Namespace: "default"}, LastTimestamp: metav1.NewTime(time.Now())}
	if _, err := c.Client().CoreV1().Events("default").Create(t.Context(), event, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fork(t).Client().CoreV1().Events("default").Get(t.Context(), "told", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}
