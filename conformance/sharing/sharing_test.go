package sharing_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
)

// TestLeftAndTaken: a cluster of kube-apiserver is opened by Skiff when that has ended, and by kube-apiserver again.
func TestLeftAndTaken(t *testing.T) {
	s := start(t)
	list, objects := rows(t)
	kube, stop := s.kube(t, "192.0.2.1")
	prepare(t, s, kube)
	stop()
	var before []string // what Skiff has made is what kube-apiserver finds
	t.Run("skiff", func(t *testing.T) {
		skiff := s.skiff(t, "192.0.2.2")
		create(t, skiff, list, objects)
		for _, r := range list {
			obj, err := at(skiff, r).Get(t.Context(), objects[r].GetName(), metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			before = append(before, fmt.Sprint(r.GR(), " ", obj.GetUID()))
		}
	})
	kube, stop = s.kube(t, "192.0.2.1")
	defer stop()
	var after []string
	for _, r := range list {
		obj, err := at(kube, r).Get(t.Context(), objects[r].GetName(), metav1.GetOptions{})
		if err != nil {
			t.Errorf("kube-apiserver does not give what Skiff stored: %v", err)
			continue
		}
		after = append(after, fmt.Sprint(r.GR(), " ", obj.GetUID()))
		obj.SetLabels(map[string]string{"kube": "was-here"})
		if _, err := at(kube, r).Update(t.Context(), obj, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) {
			t.Errorf("kube-apiserver does not go on with what Skiff stored: %v", err)
		}
	}
	if !slices.Equal(before, after) {
		t.Errorf("Skiff stored %v, kube-apiserver has %v", before, after)
	}
}

// TestAtOnce: both serve one cluster.
func TestAtOnce(t *testing.T) {
	s := start(t)
	kube, stop := s.kube(t, "192.0.2.1")
	skiff := s.skiff(t, "192.0.2.2")
	prepare(t, s, kube)
	t.Run("writes are seen by watches of the other", func(t *testing.T) { watches(t, kube, skiff) })
	t.Run("a read after a write on the other is not stale", func(t *testing.T) { reads(t, kube, skiff) })
	t.Run("addresses and node ports are given once", func(t *testing.T) { services(t, s, 40, kube, skiff) })
	t.Run("custom resources", func(t *testing.T) { customs(t, s, kube, skiff) })
	t.Run("the servers list each other", func(t *testing.T) {
		listed(t, s, kube, skiff, "192.0.2.1", "192.0.2.2")
		quiet(t, s)
		stop()
		listed(t, s, skiff, skiff, "192.0.2.2")
	})
}

// TestTwoSkiffs: two servers of Skiff serve one cluster.
func TestTwoSkiffs(t *testing.T) {
	s := start(t)
	var servers []*server
	for i, address := range []string{"192.0.2.1", "192.0.2.2"} {
		servers = append(servers, s.skiff(t, address))
		servers[i].name = fmt.Sprint("skiff-", i+1)
	}
	prepare(t, s, servers[0])
	t.Run("writes are seen by watches of the other", func(t *testing.T) { watches(t, servers...) })
	t.Run("a read after a write on the other is not stale", func(t *testing.T) { reads(t, servers[0], servers[1]) })
	t.Run("addresses and node ports are given once", func(t *testing.T) { services(t, s, 40, servers...) })
	t.Run("the servers list each other", func(t *testing.T) { listed(t, s, servers[0], servers[1], "192.0.2.1", "192.0.2.2") })
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// watches: each server's watch sees what both write, once and in the same order.
func watches(t *testing.T, servers ...*server) {
	const n = 50
	begin, err := servers[0].typed.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var streams []watch.Interface
	for _, on := range servers {
		w, err := on.typed.CoreV1().ConfigMaps(namespace).Watch(t.Context(), metav1.ListOptions{ResourceVersion: begin.ResourceVersion})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		streams = append(streams, w)
	}
	var wg sync.WaitGroup
	for i, on := range servers {
		wg.Go(func() {
			for j := range n {
				if _, err := on.typed.CoreV1().ConfigMaps(namespace).Create(t.Context(), configMap(fmt.Sprintf("w-%d-%d", i, j)), metav1.CreateOptions{}); err != nil {
					t.Errorf("create on %s: %v", on.name, err)
				}
			}
		})
	}
	wg.Wait()
	seen := make([][]string, len(servers))
	for i, w := range streams {
		for len(seen[i]) < n*len(servers) {
			select {
			case e := <-w.ResultChan():
				m, ok := e.Object.(*corev1.ConfigMap)
				if !ok {
					t.Fatalf("watch on %s gave %+v after %d events", servers[i].name, e, len(seen[i]))
				}
				if strings.HasPrefix(m.Name, "w-") {
					seen[i] = append(seen[i], fmt.Sprint(e.Type, " ", m.Name, " ", m.ResourceVersion))
				}
			case <-time.After(time.Minute):
				t.Fatalf("watch on %s gave %d events of %d", servers[i].name, len(seen[i]), n*len(servers))
			}
		}
	}
	if !slices.Equal(seen[0], seen[1]) {
		t.Errorf("%s saw\n%v\n%s saw\n%v", servers[0].name, seen[0], servers[1].name, seen[1])
	}
}

func reads(t *testing.T, one, other *server) {
	for i := range 50 {
		name := fmt.Sprint("r-", one.name, "-", i)
		made, err := one.typed.CoreV1().ConfigMaps(namespace).Create(t.Context(), configMap(name), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := other.typed.CoreV1().ConfigMaps(namespace).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || got.UID != made.UID {
			t.Fatalf("written on %s, read on %s: %v", one.name, other.name, err)
		}
		got.Labels = map[string]string{"by": other.name}
		if _, err := other.typed.CoreV1().ConfigMaps(namespace).Update(t.Context(), got, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		list, err := one.typed.CoreV1().ConfigMaps(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "by=" + other.name, FieldSelector: "metadata.name=" + name})
		if err != nil || len(list.Items) != 1 {
			t.Fatalf("written on %s, listed on %s: %d, %v", other.name, one.name, len(list.Items), err)
		}
	}
}

func service(name string, port int32) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort,
		Ports: []corev1.ServicePort{{Port: 80, NodePort: port}}}}
}

// services: both give out values at once, n each and none twice, and know what the other gave and took back.
func services(t *testing.T, s *shared, n int, servers ...*server) {
	var mu sync.Mutex
	given := make(map[string]string)
	var wg errgroup.Group
	wg.SetLimit(80)
	for i := range n {
		for _, on := range servers {
			wg.Go(func() error {
				made, err := on.typed.CoreV1().Services(namespace).Create(t.Context(), service(fmt.Sprintf("s-%s-%d", on.name, i), 0), metav1.CreateOptions{})
				if err != nil {
					t.Errorf("create on %s: %v", on.name, err)
					return nil
				}
				mu.Lock()
				defer mu.Unlock()
				for _, value := range []string{made.Spec.ClusterIP, fmt.Sprint(made.Spec.Ports[0].NodePort)} {
					if given[value] != "" {
						t.Errorf("%s was given to %s and %s", value, given[value], made.Name)
					}
					given[value] = made.Name
				}
				return nil
			})
		}
	}
	_ = wg.Wait() // what went wrong has been said
	for i, on := range servers {
		other := servers[1-i]
		made, err := on.typed.CoreV1().Services(namespace).Create(t.Context(), service("held-"+on.name, 0), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		port := made.Spec.Ports[0].NodePort
		_, err = other.typed.CoreV1().Services(namespace).Create(t.Context(), service("want-"+on.name, port), metav1.CreateOptions{})
		if err == nil || !strings.Contains(err.Error(), "provided port is already allocated") {
			t.Errorf("%s gave out port %d of %s: %v", other.name, port, on.name, err)
		}
		// Taken back by the other one, it is free for both.
		if err := other.typed.CoreV1().Services(namespace).Delete(t.Context(), made.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		s.eventually(t, "the port is free", func() error {
			_, err := on.typed.CoreV1().Services(namespace).Create(t.Context(), service("again-"+on.name, port), metav1.CreateOptions{})
			return err
		})
	}
}

// customs: a definition made on one server is served by the other, and both write objects of it.
func customs(t *testing.T, s *shared, kube, skiff *server) {
	list, objects := rows(t)
	gvr := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "things"}
	for _, r := range list {
		if r.Plural == "customresourcedefinitions" {
			if _, err := at(kube, r).Create(t.Context(), objects[r], metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	thing := func(name string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Thing",
			"metadata": map[string]any{"name": name}, "spec": map[string]any{}}}
	}
	for _, on := range []*server{kube, skiff} {
		s.eventually(t, "things are served by "+on.name, func() error {
			_, err := on.dynamic.Resource(gvr).Namespace(namespace).Create(t.Context(), thing(on.name), metav1.CreateOptions{})
			return err
		})
	}
	for _, on := range []*server{kube, skiff} {
		got, err := on.dynamic.Resource(gvr).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil || len(got.Items) != 2 {
			t.Errorf("%s lists %v, %v; want two things", on.name, got, err)
			continue
		}
		for _, item := range got.Items {
			if n, _, _ := unstructured.NestedInt64(item.Object, "spec", "n"); n != 7 {
				t.Errorf("%s gives %s without its default: %v", on.name, item.GetName(), item.Object["spec"])
			}
		}
	}
}

// listed waits until the kubernetes Service has exactly these endpoints, as both servers tell.
func listed(t *testing.T, s *shared, one, other *server, want ...string) {
	t.Helper()
	for _, on := range []*server{one, other} {
		s.eventually(t, "the endpoints are right on "+on.name, func() error {
			e, err := on.typed.CoreV1().Endpoints("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
			if err != nil {
				return err
			}
			slice, err := on.typed.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got := addresses(e, slice); !slices.Equal(got[0], want) || !slices.Equal(got[1], want) {
				return fmt.Errorf("got %v, want %v", got, want)
			}
			return nil
		})
	}
}

func addresses(e *corev1.Endpoints, slice *discoveryv1.EndpointSlice) (got [2][]string) {
	for _, subset := range e.Subsets {
		for _, a := range subset.Addresses {
			got[0] = append(got[0], a.IP)
		}
	}
	for _, endpoint := range slice.Endpoints {
		got[1] = append(got[1], endpoint.Addresses...)
	}
	return got
}

// alive are where servers say that they live.
var alive = []string{"/registry/masterleases/", "/registry/leases/kube-system/apiserver-", "/registry/peerserverleases/"}

// quiet: the servers do not undo each other's writes. For longer than either of them takes to look at everything it
// keeps, nothing is written but that they live.
func quiet(t *testing.T, s *shared) {
	t.Helper()
	const rounds = 25 * time.Second
	ctx, cancel := context.WithTimeout(t.Context(), rounds)
	defer cancel()
	for r := range s.raw(t).Watch(ctx, "/registry/", clientv3.WithPrefix()) {
		for _, e := range r.Events {
			key := string(e.Kv.Key)
			if !slices.ContainsFunc(alive, func(prefix string) bool { return strings.HasPrefix(key, prefix) }) {
				t.Errorf("%s was written at %d", key, e.Kv.ModRevision)
			}
		}
	}
}
