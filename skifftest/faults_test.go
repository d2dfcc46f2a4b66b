package skifftest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/skiff-k8s/skiff/skifftest"
)

// bare is a cluster with nothing beside the API server.
func bare(t testing.TB) *skifftest.Cluster {
	t.Helper()
	return skifftest.Start(t, skifftest.WithoutControllers(), skifftest.WithoutScheduler(), skifftest.Nodes(0))
}

func TestRequestsAreWrittenDown(t *testing.T) {
	c := bare(t)
	alice, bob := client(t, c.User("alice", user.SystemPrivilegedGroup)), client(t, c.User("bob"))
	made := makeMap(t, alice, "one")
	if _, err := alice.CoreV1().ConfigMaps("default").Get(t.Context(), "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	if _, err := bob.CoreV1().Pods("default").UpdateStatus(t.Context(), pod("p"), metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Fatal(err)
	}
	if _, err := alice.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{ResourceVersion: made.ResourceVersion}); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Discovery().ServerVersion(); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.Requests() {
		if r.At.IsZero() || r.Received == 0 || (r.Sent > 0) != slices.Contains([]string{"create", "update"}, r.Verb) {
			t.Errorf("%+v", r)
		}
		got = append(got, fmt.Sprintf("%s %s %s/%s %s %s/%s %s %d%v", r.User, r.Verb, r.Group, r.Version, r.Resource+"/"+r.Subresource, r.Namespace, r.Name, r.ResourceVersion, r.Code, r.Fault))
	}
	want := []string{
		"alice create /v1 configmaps/ default/  201", "alice get /v1 configmaps/ default/none  404", "bob update /v1 pods/status default/p  403",
		"alice list /v1 configmaps/ default/ " + made.ResourceVersion + " 200", "alice get / / /  200",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%q, want\n%q", got, want)
	}
}

// TestFaultsAreThoseOfRealClusters: each says what clients look for, and what it is said to do has been done, or not.
func TestFaultsAreThoseOfRealClusters(t *testing.T) {
	c := bare(t)
	api := client(t, c.Config())
	object := makeMap(t, c.Client(), "one")
	update := func() error {
		_, err := api.CoreV1().ConfigMaps("default").Update(t.Context(), object, metav1.UpdateOptions{})
		return err
	}
	create := func() error {
		_, err := api.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "two"}}, metav1.CreateOptions{})
		return err
	}
	follow := func() error {
		_, err := api.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: object.ResourceVersion})
		return err
	}
	exists := func() bool {
		_, err := c.Client().CoreV1().ConfigMaps("default").Get(t.Context(), "two", metav1.GetOptions{})
		return err == nil
	}
	for _, test := range []struct {
		fault skifftest.Fault
		do    func() error
		is    func(error) bool
		done  bool
	}{
		{skifftest.Conflict(), update, apierrors.IsConflict, false},
		{skifftest.Expired(), follow, apierrors.IsResourceExpired, false},
		{skifftest.RefusedWebhook(), create, apierrors.IsInternalError, false},
		{skifftest.LostAnswer(), create, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }, true},
		{skifftest.Restarted(), create, func(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }, true}, // of before
		{skifftest.Latency(time.Millisecond), update, func(err error) bool { return err == nil }, true},
	} {
		c.Inject(test.fault, 1, func(r skifftest.Request) bool { return r.Resource == "configmaps" })
		if err := test.do(); !test.is(err) {
			t.Errorf("%v: %v", test.fault, err)
		}
		requests := c.Requests()
		if last := requests[len(requests)-1]; last.Fault != test.fault {
			t.Errorf("%v is not written down: %+v", test.fault, last)
		}
		if exists() != test.done {
			t.Errorf("%v: what was asked is done: %t, want %t", test.fault, exists(), test.done)
		}
	}
}

// TestWatchesAreStruck: one is cut, one is late, one is held back once.
func TestWatchesAreStruck(t *testing.T) {
	for _, contentType := range []string{runtime.ContentTypeJSON, runtime.ContentTypeProtobuf} {
		t.Run(contentType, func(t *testing.T) { watchesAreStruck(t, contentType) })
	}
}

func watchesAreStruck(t *testing.T, contentType string) {
	synctest.Test(t, func(t *testing.T) {
		c := bare(t)
		for _, test := range []struct {
			fault skifftest.Fault
			want  []time.Duration // after which events come; one fewer than are written: the watch is cut
		}{
			{skifftest.Fault{}, []time.Duration{0, 0, 0}},
			{skifftest.DroppedWatch(2), []time.Duration{0, 0}},
			{skifftest.DelayedWatch(time.Minute), []time.Duration{time.Minute, 2 * time.Minute, 3 * time.Minute}},
			{skifftest.StaleCache(1, time.Hour), []time.Duration{0, time.Hour, time.Hour}},
		} {
			c.Inject(test.fault, 1, nil)
			config := c.Config()
			config.ContentType = contentType
			events, err := client(t, config).CoreV1().Secrets("default").Watch(t.Context(), metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			for _, name := range []string{"a", "b", "c"} {
				secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}
				if _, err := c.Client().CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
			var got []time.Duration
			for e := range events.ResultChan() {
				if e.Type != watch.Added {
					t.Errorf("%v: %v", test.fault, e)
				}
				got = append(got, time.Since(begun))
				if len(got) == 3 {
					break
				}
			}
			events.Stop()
			if !slices.Equal(got, test.want) {
				t.Errorf("%q: events came after %v, want %v", test.fault, got, test.want)
			}
			if err := c.Client().CoreV1().Secrets("default").DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestChaosIsTheSameForASeed: the same requests in the same order meet the same faults, and another seed has others.
func TestChaosIsTheSameForASeed(t *testing.T) {
	of := func(seed uint64) (faults []string) {
		synctest.Test(t, func(t *testing.T) {
			c := bare(t)
			calm := c.Chaos(seed, "alice")
			alice, other := client(t, c.User("alice", user.SystemPrivilegedGroup)), client(t, c.User("bob"))
			for i := range 200 {
				_, err := other.Discovery().ServerVersion()
				if err != nil {
					t.Errorf("one that is spared: %v", err)
				}
				object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("map-", i/2)}}
				if i%2 == 0 {
					_, _ = alice.CoreV1().ConfigMaps("default").Create(t.Context(), object, metav1.CreateOptions{}) // it may be struck
				} else {
					_, _ = alice.CoreV1().ConfigMaps("default").Update(t.Context(), object, metav1.UpdateOptions{})
				}
			}
			calm()
			if _, err := alice.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); err != nil {
				t.Error(err)
			}
			for _, r := range c.Requests() {
				if r.User == "alice" {
					faults = append(faults, r.Fault.String())
				} else if r.Fault != (skifftest.Fault{}) {
					t.Errorf("%+v is struck", r)
				}
			}
		})
		return faults
	}
	first := of(1)
	if again := of(1); !slices.Equal(first, again) {
		t.Errorf("the same seed: %q and %q", first, again)
	}
	if other := of(2); slices.Equal(first, other) {
		t.Error("another seed does the same")
	}
	kinds := make(map[string]int)
	for _, f := range first {
		kinds[f]++
	}
	if kinds[""] < 100 || kinds[""] > 190 || kinds["conflict"] == 0 || kinds["lost answer"] == 0 || kinds["refused webhook"] == 0 {
		t.Errorf("of 201 requests: %v", kinds)
	}
}

// TestRestart: requests wait, watches end, objects stay.
func TestRestart(t *testing.T) {
	c := skifftest.Start(t)
	makeMap(t, c.Client(), "kept")
	events, err := c.Client().CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Restart()
	for range events.ResultChan() { // to its end
	}
	wantMaps(t, c.Client(), "kept")
}

// marker is a controller that labels ConfigMaps.
type marker func(context.Context, *rest.Config) error

// careful is one as it ought to be: an informer, and a queue to try again from.
func careful(ctx context.Context, config *rest.Config) error {
	api := kubernetes.NewForConfigOrDie(config)
	factory := informers.NewSharedInformerFactoryWithOptions(api, 0, informers.WithNamespace("default"))
	maps := factory.Core().V1().ConfigMaps()
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[string]())
	add := func(obj any) {
		if object, ok := obj.(*corev1.ConfigMap); ok {
			queue.Add(object.Name)
		}
	}
	if _, err := maps.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: add, UpdateFunc: func(_, now any) { add(now) }}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	defer context.AfterFunc(ctx, queue.ShutDown)()
	for {
		name, ended := queue.Get()
		if ended {
			return nil
		}
		object, err := maps.Lister().ConfigMaps("default").Get(name)
		if err == nil {
			err = mark(ctx, api, object)
		}
		if err == nil || apierrors.IsNotFound(err) {
			queue.Forget(name)
		} else {
			queue.AddRateLimited(name)
		}
		queue.Done(name)
	}
}

// careless is one with a fault: what it could not write it forgets.
func careless(ctx context.Context, config *rest.Config) error {
	api := kubernetes.NewForConfigOrDie(config)
	factory := informers.NewSharedInformerFactoryWithOptions(api, 0, informers.WithNamespace("default"))
	if _, err := factory.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		if object, ok := obj.(*corev1.ConfigMap); ok {
			_ = mark(ctx, api, object) // the planted fault
		}
	}}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	<-ctx.Done()
	return nil
}

func mark(ctx context.Context, api kubernetes.Interface, object *corev1.ConfigMap) error {
	if object.Labels["marked"] != "" {
		return nil
	}
	object = object.DeepCopy()
	metav1.SetMetaDataLabel(&object.ObjectMeta, "marked", "yes")
	_, err := api.CoreV1().ConfigMaps(object.Namespace).Update(ctx, object, metav1.UpdateOptions{})
	return err
}

// TestChaosFindsAPlantedFault: a controller that is as it ought to be survives, one that forgets what failed does not; and
// without chaos nobody would see a difference.
func TestChaosFindsAPlantedFault(t *testing.T) {
	const count = 30
	for _, test := range []struct {
		name  string
		run   marker
		chaos bool
		all   bool
	}{{"careful", careful, true, true}, {"careless without chaos", careless, false, true}, {"careless", careless, true, false}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := bare(t)
				calm := func() {}
				if test.chaos {
					calm = c.Chaos(7)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() {
					if err := test.run(ctx, c.Config()); err != nil {
						t.Error(err)
					}
				})
				for i := range count {
					makeMap(t, c.Client(), fmt.Sprint("map-", i))
					time.Sleep(time.Second)
				}
				calm()
				time.Sleep(time.Hour) // which is long for a back-off
				cancel()
				running.Wait()
				marked, err := c.Client().CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{LabelSelector: labels.Set{"marked": "yes"}.String()})
				if err != nil {
					t.Fatal(err)
				}
				if got := len(marked.Items) == count; got != test.all {
					t.Errorf("%d of %d are marked; faults: %v", len(marked.Items), count, struck(c))
				}
			})
		})
	}
}

// struck is how often each fault has struck.
func struck(c *skifftest.Cluster) map[string]int {
	kinds := make(map[string]int)
	for _, r := range c.Requests() {
		if f := r.Fault.String(); f != "" {
			kinds[f]++
		}
	}
	return kinds
}
