package apiserver_test

import (
	"fmt"
	"net/http"
	"testing"
)

// BenchmarkWrite is what writes cost the server that BenchmarkServe does not have, which writes one object again and again: each of
// these is of another object than the last ones, so that nobody holds it decoded.
func BenchmarkWrite(b *testing.B) {
	const many = 1000
	b.Run("update a configmap of many", func(b *testing.B) {
		const path = "/api/v1/namespaces/default/configmaps"
		s, n := serveBench(b), 0
		for i := range many {
			s.ask(http.MethodPost, path, inProtobuf, inProtobuf, protobufBody(b, configMap(fmt.Sprint("c-", i)), "ConfigMap"), http.StatusCreated)
		}
		measured(b, func() {
			n++
			changed := configMap(fmt.Sprint("c-", n%many))
			changed.Data = map[string]string{"turn": fmt.Sprint(n)}
			s.ask(http.MethodPut, path+"/"+changed.Name, inProtobuf, inProtobuf, protobufBody(b, changed, "ConfigMap"), http.StatusOK)
		})
	})
	b.Run("patch the status of a pod of many", func(b *testing.B) {
		s, n := servePods(b, many), 0
		measured(b, func() {
			n++
			path := fmt.Sprintf("%s/p-%d/status", podsPath, n%many)
			s.ask(http.MethodPatch, path, "application/strategic-merge-patch+json", inProtobuf, statusPatch(b, n), http.StatusOK)
		})
	})
	b.Run("label a pod of many", func(b *testing.B) {
		s, n := servePods(b, many), 0
		measured(b, func() {
			n++
			body := fmt.Appendf(nil, `{"metadata":{"labels":{"turn":"%d"}}}`, n)
			s.ask(http.MethodPatch, fmt.Sprintf("%s/p-%d", podsPath, n%many), "application/merge-patch+json", inProtobuf, body, http.StatusOK)
		})
	})
}
