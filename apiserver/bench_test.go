package apiserver_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

func BenchmarkCreate(b *testing.B) {
	s := apiservertest.Start(b, nil)
	c := client(b, apiservertest.Config(s, "bench"), inProtobuf)
	b.Run("configmap", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if _, err := c.CoreV1().ConfigMaps("default").Create(b.Context(), configMap(fmt.Sprintf("c-%d-%d", b.N, i)), metav1.CreateOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("pod", func(b *testing.B) {
		makeServiceAccount(b, s)
		for i := 0; b.Loop(); i++ {
			if _, err := c.CoreV1().Pods("default").Create(b.Context(), benchPod(fmt.Sprintf("p-%d-%d", b.N, i)), metav1.CreateOptions{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func makeServiceAccount(b *testing.B, s *apiserver.Server) {
	api := client(b, apiservertest.Config(s, "bench"), inProtobuf).CoreV1().ServiceAccounts("default")
	if _, err := api.Create(b.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		b.Logf("service account: %v", err) // made by an earlier round
	}
}

func benchPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "bench", "tier": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "main", Image: "registry.example/app:1.2.3", Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
			Env: []corev1.EnvVar{{Name: "A", Value: "1"}, {Name: "B", Value: "2"}},
		}}},
	}
}

func BenchmarkUpdate(b *testing.B) {
	s := apiservertest.Start(b, nil)
	api := client(b, apiservertest.Config(s, "bench"), inProtobuf).CoreV1().Pods("default")
	makeServiceAccount(b, s)
	pod, err := api.Create(b.Context(), benchPod("updated"), metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		pod.Status.Message = fmt.Sprint(i)
		if pod, err = api.UpdateStatus(b.Context(), pod, metav1.UpdateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRead measures answers without decoding them.
func BenchmarkRead(b *testing.B) {
	s := apiservertest.Start(b, nil)
	makeServiceAccount(b, s)
	api := client(b, apiservertest.Config(s, "bench"), inProtobuf).CoreV1().Pods("default")
	for i := range 1000 {
		if _, err := api.Create(b.Context(), benchPod(fmt.Sprint("p-", i)), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	for _, path := range []string{"/pods/p-1", "/pods", "/pods?limit=100", "/pods?labelSelector=app%3Dbench", "/pods?fieldSelector=spec.nodeName%3Dn"} {
		for _, media := range []string{inJSON, inProtobuf} {
			b.Run(path+" "+media[strings.LastIndexAny(media, "./")+1:], func(b *testing.B) {
				for b.Loop() {
					read(b, s, "/api/v1/namespaces/default"+path, media)
				}
			})
		}
	}
}

func read(b *testing.B, s *apiserver.Server, path, media string) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, "https://in-process"+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Accept", media)
	resp, err := apiservertest.Config(s, "bench").Transport.RoundTrip(r)
	if err != nil {
		b.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		b.Fatalf("GET %s: %d, %v", path, resp.StatusCode, err)
	}
	b.SetBytes(n)
}
