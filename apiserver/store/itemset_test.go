package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// churn makes, changes and deletes pods of three namespaces at random: their labels are those of many, of a few, of one, or none,
// and so are their nodes.
func churn(t *testing.T, s *store.Store, random *rand.Rand, times int) {
	t.Helper()
	dress := func(pod *corev1.Pod) {
		pod.Labels = map[string]string{}
		switch random.IntN(4) {
		case 0:
			pod.Labels["app"] = "many"
		case 1:
			pod.Labels["app"], pod.Labels["tier"] = "few", fmt.Sprint(random.IntN(5))
		case 2:
			pod.Labels["app"], pod.Labels["pod"] = "one", pod.Name
		}
		pod.Spec.NodeName = fmt.Sprint("node-", random.IntN(4))
	}
	for range times {
		namespace, name := fmt.Sprint("space-", random.IntN(3)), fmt.Sprint("pod-", random.IntN(80))
		item, err := s.Get(t.Context(), pods, namespace, name)
		switch {
		case errors.Is(err, store.ErrNotFound):
			pod := testPod(name, "")
			pod.Namespace = namespace
			dress(pod)
			_, err = s.Create(t.Context(), pods, pod, false)
		case err == nil && random.IntN(3) == 0:
			_, err = s.Delete(t.Context(), pods, item, false)
		case err == nil:
			_, err = s.Update(t.Context(), pods, namespace, name, false, func(current *store.Item) (resource.Object, error) {
				pod := current.Object().DeepCopyObject().(*corev1.Pod)
				dress(pod)
				return pod, nil
			})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// paged reads a list page by page and names what is on it with its revision.
func paged(t *testing.T, s *store.Store, o store.ListOptions) (all []string) {
	t.Helper()
	for {
		page, err := s.List(t.Context(), pods, o)
		if err != nil {
			t.Fatalf("list %+v: %v", o, err)
		}
		if o.Limit > 0 && len(page.Items) > int(o.Limit) {
			t.Fatalf("%d on a page of %d", len(page.Items), o.Limit)
		}
		for _, item := range page.Items {
			all = append(all, fmt.Sprintf("%s/%s@%d", item.Object().GetNamespace(), item.Object().GetName(), item.Revision()))
		}
		if page.Continue == "" {
			return all
		}
		o = store.ListOptions{Match: o.Match, Limit: o.Limit, Continue: page.Continue}
	}
}

// TestFound: what is found by labels or by the index is what is found by looking at each object, in the same order; now, page by
// page, and as it was before.
func TestFound(t *testing.T) {
	s := open(t)
	random := rand.New(rand.NewPCG(1, 2))
	for round := range 12 {
		churn(t, s, random, 150)
		before, err := s.List(t.Context(), pods, store.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if round%2 == 1 {
			churn(t, s, random, 30)
		}
		for _, selector := range []string{"", "app=many", "app=few", "app=few,tier in (1,3)", "app=one", "pod=pod-7", "!app", "app!=many", "absent=x", "app notin (few,one)"} {
			for _, node := range []string{"", "node-1", "node-9"} {
				for _, namespace := range []string{"", "space-1", "space-9"} {
					parsed, err := labels.Parse(selector)
					if err != nil {
						t.Fatal(err)
					}
					m := store.Match{Namespace: namespace, IndexValue: node}
					if selector != "" {
						m.Labels = parsed
					}
					var want []string
					for _, item := range before.Items {
						pod := item.Object().(*corev1.Pod)
						if (namespace == "" || namespace == pod.Namespace) && (node == "" || node == pod.Spec.NodeName) && parsed.Matches(labels.Set(pod.Labels)) {
							want = append(want, fmt.Sprintf("%s/%s@%d", pod.Namespace, pod.Name, item.Revision()))
						}
					}
					for _, limit := range []int64{0, 1, 3, 500, 1 << 62} {
						got := paged(t, s, store.ListOptions{Match: m, Limit: limit, ResourceVersion: version(before.Revision), ResourceVersionMatch: "Exact"})
						if !slices.Equal(got, want) {
							t.Fatalf("%q on %q in %q, %d a page:\n got %s\nwant %s", selector, node, namespace, limit, strings.Join(got, " "), strings.Join(want, " "))
						}
					}
				}
			}
		}
	}
}

// TestFoundBesideUnreadable: what nobody can read may have any labels and be on any node, so that reads by them fail; they go on
// when it is gone.
func TestFoundBesideUnreadable(t *testing.T) {
	b := memory.New()
	s := openOn(t, b, 0)
	churn(t, s, rand.New(rand.NewPCG(3, 4)), 200)
	if _, err := b.Put(t.Context(), "/registry/pods/space-1/broken", []byte("k8s\x00nothing"), backend.Absent, 0); err != nil {
		t.Fatal(err)
	}
	read := func(m store.Match) error {
		_, err := s.List(t.Context(), pods, store.ListOptions{Match: m})
		return err
	}
	many := labels.SelectorFromSet(labels.Set{"app": "many"})
	for name, m := range map[string]store.Match{"by labels": {Labels: many}, "by node": {IndexValue: "node-1"}, "in its namespace": {Namespace: "space-1", Labels: many}} {
		var unreadable *store.UnreadableError
		if err := read(m); !errors.As(err, &unreadable) {
			t.Errorf("%s: %v", name, err)
		}
		m.Readable = true
		if err := read(m); err != nil {
			t.Errorf("%s, of what is readable: %v", name, err)
		}
	}
	if err := read(store.Match{Namespace: "space-2", Labels: many}); err != nil {
		t.Errorf("in another namespace: %v", err)
	}
	if err := s.DeleteUnreadable(t.Context(), pods, "space-1", "broken"); err != nil {
		t.Fatal(err)
	}
	if err := read(store.Match{Labels: many}); err != nil {
		t.Errorf("after it is gone: %v", err)
	}
}
