package store_test

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// testPod is of a usual size: about 2 KiB as JSON.
func testPod(name, node string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: "5f8e1c1e-7f0a-4b57-9f55-0d5d2f3c8b11",
			Labels:      map[string]string{"app": "web", "pod-template-hash": "5d8f9c7b6"},
			Annotations: map[string]string{"example.com/checksum": "0123456789abcdef0123456789abcdef"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5d8f9c7b6",
				UID: "d8cbb2a6-51b1-4a55-8a5a-b4e9f1b0a001", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "default", RestartPolicy: corev1.RestartPolicyAlways,
			Containers: []corev1.Container{{Name: "web", Image: "registry.example.com/team/web:v1.2.3",
				Ports: []corev1.ContainerPort{{ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
				Env:   []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}, {Name: "REGION", Value: "north"}},
				VolumeMounts: []corev1.VolumeMount{{Name: "kube-api-access", ReadOnly: true,
					MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}}}},
			Volumes: []corev1.Volume{{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{
				ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.244.1.7", HostIP: "192.168.0.4",
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

func openBench(b *testing.B, engine backend.Backend) *store.Store {
	s, err := store.Open(context.Background(), store.Config{Backend: engine, Resources: []*resource.Resource{pods}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		s.Close()
		engine.Close()
	})
	return s
}

// fill creates n pods.
func fill(b *testing.B, s *store.Store, n int) {
	for i := range n {
		if _, err := s.Create(b.Context(), pods, testPod(fmt.Sprintf("pod-%d", i), fmt.Sprintf("node-%d", i%100)), false); err != nil {
			b.Fatal(err)
		}
	}
}

func engines(b *testing.B, run func(b *testing.B, s *store.Store)) {
	b.Run("memory", func(b *testing.B) { run(b, openBench(b, memory.New())) })
	b.Run("file", func(b *testing.B) {
		engine, err := file.Open(filepath.Join(b.TempDir(), "skiff.db"))
		if err != nil {
			b.Fatal(err)
		}
		run(b, openBench(b, engine))
	})
}

// measure runs f b.N times.
func measure(b *testing.B, f func(i int) error) {
	b.ReportAllocs()
	b.ResetTimer()
	parallel(b, b.N, f)
}

// parallel runs f n times, in 32 goroutines.
func parallel(b *testing.B, n int, f func(i int) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				if err := f(int(i)); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkCreate(b *testing.B) {
	engines(b, func(b *testing.B, s *store.Store) {
		measure(b, func(i int) error {
			_, err := s.Create(b.Context(), pods, testPod(fmt.Sprint("pod-", i), "node"), false)
			return err
		})
	})
}

func BenchmarkUpdate(b *testing.B) {
	engines(b, func(b *testing.B, s *store.Store) {
		fill(b, s, 1000)
		measure(b, func(i int) error {
			_, err := s.Update(b.Context(), pods, "default", fmt.Sprint("pod-", i%1000), false, func(current *store.Item) (resource.Object, error) {
				p := current.Object().DeepCopyObject().(*corev1.Pod)
				p.Status.Message = fmt.Sprint(i)
				return p, nil
			})
			return err
		})
	})
}

func BenchmarkGet(b *testing.B) {
	s := openBench(b, memory.New())
	fill(b, s, 10_000)
	measure(b, func(i int) error {
		_, err := s.Get(b.Context(), pods, "default", fmt.Sprint("pod-", i%10_000))
		return err
	})
}

func BenchmarkList10k(b *testing.B) {
	for _, c := range []struct {
		name  string
		match store.Match
		limit int64
	}{
		{"all", store.Match{}, 0},
		{"page of 500", store.Match{}, 500},
		{"one node", store.Match{IndexValue: "node-1"}, 0},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := openBench(b, memory.New())
			fill(b, s, 10_000)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.List(b.Context(), pods, store.ListOptions{Match: c.match, Limit: c.limit}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkWatch measures one update seen by 1,000 watchers: of all pods, or
// each of its own node, of which one is concerned.
func BenchmarkWatch(b *testing.B) {
	const watchers = 1000
	for _, c := range []struct {
		name  string
		match func(i int) store.Match
		seen  int // watchers that see an update
	}{
		{"all pods", func(int) store.Match { return store.Match{} }, watchers},
		{"one node each", func(i int) store.Match { return store.Match{IndexValue: fmt.Sprint("node-", i)} }, 1},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := openBench(b, memory.New())
			item, err := s.Create(b.Context(), pods, testPod("pod", "node-1"), false)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			var ready, done, seen sync.WaitGroup
			for i := range watchers {
				ready.Add(1)
				done.Go(func() {
					first := true
					for step, err := range s.Watch(ctx, pods, c.match(i), item.Revision()-1) {
						if err != nil {
							b.Error(err)
						}
						if step.Event == nil {
							continue
						}
						if first {
							first = false
							ready.Done()
							continue
						}
						seen.Done()
					}
					if first {
						ready.Done()
					}
				})
			}
			if c.seen == watchers {
				ready.Wait()
			}
			n := 0
			for b.Loop() {
				seen.Add(c.seen)
				n++
				_, err := s.Update(b.Context(), pods, "default", "pod", false, func(current *store.Item) (resource.Object, error) {
					p := current.Object().DeepCopyObject().(*corev1.Pod)
					p.Status.Message = fmt.Sprint(n)
					return p, nil
				})
				if err != nil {
					b.Fatal(err)
				}
				seen.Wait()
			}
			cancel()
			done.Wait()
		})
	}
}

// BenchmarkOpen starts a store on a file with 10,000 pods.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "skiff.db")
	start := func(use func(s *store.Store)) {
		engine, err := file.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		defer engine.Close()
		s, err := store.Open(b.Context(), store.Config{Backend: engine, Resources: []*resource.Resource{pods}})
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
		use(s)
	}
	start(func(s *store.Store) {
		parallel(b, 10_000, func(i int) error {
			_, err := s.Create(b.Context(), pods, testPod(fmt.Sprint("pod-", i), "node"), false)
			return err
		})
	})
	for b.Loop() {
		start(func(*store.Store) {})
	}
}
