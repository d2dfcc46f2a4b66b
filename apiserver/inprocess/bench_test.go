package inprocess

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend/file"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/store"
)

// served is a server on a file, and a client of it that speaks a media type.
func served(b *testing.B) (*apiserver.Server, func(media string) kubernetes.Interface) {
	b.Helper()
	engine, err := file.Open(filepath.Join(b.TempDir(), "skiff.db"))
	if err != nil {
		b.Fatal(err)
	}
	s := apiservertest.Start(b, func(o *apiserver.Options) { o.Backend = engine })
	client := func(media string) kubernetes.Interface {
		config := apiservertest.Config(s, "admin")
		config.ContentType, config.AcceptContentTypes = media, media
		return kubernetes.NewForConfigOrDie(config)
	}
	_, err = client(protobuf).CoreV1().ServiceAccounts("default").Create(b.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return s, client
}

const protobuf = "application/vnd.kubernetes.protobuf"

// pod is of the usual size: 2 KiB as it is stored, with who manages its fields.
func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name,
			Labels:      map[string]string{"app": "web", "pod-template-hash": "5d8f9c7b6"},
			Annotations: map[string]string{"example.com/checksum": "0123456789abcdef0123456789abcdef"}},
		Spec: corev1.PodSpec{
			NodeName: "node-1", AutomountServiceAccountToken: new(false),
			Containers: []corev1.Container{{Name: "web", Image: "registry.example.com/team/web:v1.2.3",
				Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
				Env:   []corev1.EnvVar{{Name: "LOG_LEVEL", Value: "info"}, {Name: "TEXT", Value: strings.Repeat("x", 700)}}}},
		},
	}
}

// made is how informers come to the objects: as those of any client do, or as
// those of this package.
var made = map[string]func(*apiserver.Server, kubernetes.Interface) informers.SharedInformerFactory{
	"of a client": func(_ *apiserver.Server, c kubernetes.Interface) informers.SharedInformerFactory {
		return informers.NewSharedInformerFactory(c, 0)
	},
	"in process": func(s *apiserver.Server, c kubernetes.Interface) informers.SharedInformerFactory {
		return Informers(s, admin, "bench", c)
	},
}

// BenchmarkEvent is a write of a pod to the store until all informers have it.
func BenchmarkEvent(b *testing.B) {
	for name, factory := range made {
		for _, n := range []int{1, 4} {
			b.Run(fmt.Sprint(n, " informers ", name), func(b *testing.B) {
				s, client := served(b)
				if _, err := client(protobuf).CoreV1().Pods("default").Create(b.Context(), pod("one"), metav1.CreateOptions{}); err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(b.Context())
				var seen sync.WaitGroup
				for range n {
					f := factory(s, client(protobuf))
					f.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(_, _ any) { seen.Done() }})
					f.StartWithContext(ctx)
					f.WaitForCacheSync(ctx.Done())
					defer f.Shutdown()
				}
				defer cancel()
				row := s.Cluster().Resource("", "pods")
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					seen.Add(n)
					_, err := s.Store().Update(b.Context(), row, "default", "one", false, func(current *store.Item) (resource.Object, error) {
						p := current.Object().DeepCopyObject().(*corev1.Pod)
						p.Status.Message = fmt.Sprint(i)
						return p, nil
					})
					if err != nil {
						b.Fatal(err)
					}
					seen.Wait()
				}
			})
		}
	}
}

// BenchmarkHeap is what is live for a pod, after a forced collection: when all
// were made, when each was read and all were listed as JSON and as protobuf, and
// when nothing was asked for a minute.
func BenchmarkHeap(b *testing.B) {
	const pods = 5000
	for name, factory := range made {
		for _, informed := range []bool{false, true} {
			if !informed && name != "in process" {
				continue
			}
			b.Run(fmt.Sprint(pods, " pods, informers ", name, " ", informed), func(b *testing.B) {
				for b.Loop() {
					heap(b, pods, informed, factory)
				}
			})
		}
	}
}

func heap(b *testing.B, n int, informed bool, factory func(*apiserver.Server, kubernetes.Interface) informers.SharedInformerFactory) {
	s, client := served(b)
	ctx, cancel := context.WithCancel(b.Context())
	if informed {
		f := factory(s, client(protobuf))
		f.Core().V1().Pods().Informer()
		f.StartWithContext(ctx)
		f.WaitForCacheSync(ctx.Done())
		defer f.Shutdown()
	}
	defer cancel()
	before := live()
	report := func(when string) { b.ReportMetric(float64(live()-before)/1024/float64(n), "KiB/pod-"+when) }
	read := []kubernetes.Interface{client("application/json"), client(protobuf)}
	var making sync.WaitGroup
	for worker := range 16 {
		making.Go(func() {
			for i := worker; i < n; i += 16 {
				if _, err := read[1].CoreV1().Pods("default").Create(ctx, pod(fmt.Sprint("pod-", i)), metav1.CreateOptions{}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	making.Wait()
	report("made")
	for _, c := range read {
		for i := range n {
			if _, err := c.CoreV1().Pods("default").Get(ctx, fmt.Sprint("pod-", i), metav1.GetOptions{}); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	report("read")
	time.Sleep(time.Minute)
	report("idle")
}

// live is the size of the live heap.
func live() int64 {
	var m runtime.MemStats
	for range 2 { // what has finalizers goes with the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
