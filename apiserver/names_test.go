package apiserver_test

import (
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestNamesInObjects: a name in a pod that no object can have is refused as one that no object has, as kube-apiserver
// refuses it, and not as a wrong path.
func TestNamesInObjects(t *testing.T) {
	s := apiservertest.Start(t, nil)
	send(t, s, "POST", "/api/v1/namespaces/default/serviceaccounts", `{"metadata":{"name":"default"}}`)
	for field, want := range map[string]string{
		"priorityClassName":  `pods \"p\" is forbidden: no PriorityClass with name /a was found`,
		"runtimeClassName":   `pods \"p\" is forbidden: pod rejected: RuntimeClass \"/a\" not found`,
		"serviceAccountName": `pods \"p\" is forbidden: error looking up service account default//a: serviceaccount \"/a\" not found`,
	} {
		got := send(t, s, "POST", "/api/v1/namespaces/default/pods", `{"metadata":{"name":"p"},"spec":{"`+field+`":"/a","containers":[{"name":"a","image":"b"}]}}`)
		if !strings.Contains(got, want) || !strings.Contains(got, `"code":403`) {
			t.Errorf("%s: got %s, want %s", field, got, want)
		}
	}
}
