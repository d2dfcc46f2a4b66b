package aggregate

import (
	"encoding/json"
	"testing"

	apidiscovery "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

// FuzzDescriptions: whatever a server says it serves either makes no sense or
// can be told to clients, each resource once and with a kind.
func FuzzDescriptions(f *testing.F) {
	for _, text := range []string{
		`{"resources":[{"name":"a","kind":"A","verbs":["get"]},{"name":"a/status","kind":"A"},{"name":"b/x"}]}`,
		`{"resources":[{"name":"a/"},{"name":"/"},{"name":""},null]}`,
		`{"items":[{"metadata":{"name":"g"},"versions":[{"version":"v1","resources":[{"resource":"a","subresources":[{"subresource":"x"}]},null]}]}]}`,
		`{"items":[null,{"versions":[null]}]}`, `[]`, `{"items":{}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		check := func(resources []apidiscovery.APIResourceDiscovery, err error) {
			if err != nil {
				return
			}
			for _, r := range resources {
				if r.ResponseKind == nil {
					t.Errorf("%s has no kind", r.Resource)
				}
				for _, s := range r.Subresources {
					if s.ResponseKind == nil {
						t.Errorf("%s/%s has no kind", r.Resource, s.Subresource)
					}
				}
			}
			if _, err := json.Marshal(resources); err != nil {
				t.Error(err)
			}
		}
		check(pick(body, "g", "v1"))
		var list metav1.APIResourceList
		if json.Unmarshal(body, &list) != nil {
			return
		}
		resources, err := fromPlain(list.APIResources)
		check(resources, err)
		seen := make(map[string]bool)
		for _, r := range resources {
			if seen[r.Resource] || r.Resource == "" {
				t.Errorf("%q is there twice, or has no name", r.Resource)
			}
			seen[r.Resource] = true
		}
	})
}

func TestGroupVersion(t *testing.T) {
	for path, want := range map[string]schema.GroupVersion{
		"/apis/g/v1": {Group: "g", Version: "v1"}, "/apis/g/v1/": {Group: "g", Version: "v1"}, "/apis/g/v1/x/y": {Group: "g", Version: "v1"},
		"/api/v1": {Version: "v1"}, "/api/v1/pods": {Version: "v1"},
		"/apis/g": {}, "/apis/g/": {}, "/apis": {}, "/apis/": {}, "/api": {}, "/api/": {}, "/": {}, "": {}, "/openapi/v3/apis/g/v1": {}, "//apis/g/v1": {},
	} {
		got, ok := groupVersion(path)
		if ok != (want != schema.GroupVersion{}) || ok && got != want {
			t.Errorf("%q: got %v, %v, want %v", path, got, ok, want)
		}
	}
}

func TestDecide(t *testing.T) {
	label := func(value string, priority int32) *apiService {
		o := &apiService{}
		o.Labels = map[string]string{managedLabel: value}
		o.Spec.VersionPriority = priority
		helper.SetAPIServiceCondition(o, helper.NewLocalAvailableAPIServiceCondition())
		return o
	}
	silent := label(onStart, 1)
	silent.Status.Conditions = nil
	for name, test := range map[string]struct {
		want, have      *apiService
		before, settled bool
		action          action
	}{
		"new":                                   {label(onStart, 1), nil, false, false, create},
		"somebody deleted it":                   {label(onStart, 1), nil, true, true, leave},
		"custom, somebody deleted it":           {label(always, 1), nil, true, true, create},
		"as it should be":                       {label(onStart, 1), label(onStart, 1), true, false, leave},
		"another priority since the last start": {label(onStart, 1), label(onStart, 2), true, false, replace},
		"somebody changed it":                   {label(onStart, 1), label(onStart, 2), true, true, leave},
		"custom, somebody changed it":           {label(always, 1), label(always, 2), false, true, replace},
		"no longer served since the last start": {nil, label(onStart, 1), true, false, remove},
		"a label that somebody gave":            {nil, label(onStart, 1), false, false, leave},
		"custom, no longer defined":             {nil, label(always, 1), false, true, remove},
		"of somebody else":                      {label(always, 1), label("", 2), false, false, leave},
		"it does not say that it is available":  {label(onStart, 1), silent, true, true, say},
	} {
		if got := decide(test.want, test.have, test.before, test.settled); got != test.action {
			t.Errorf("%s: got %v, want %v", name, got, test.action)
		}
	}
}
