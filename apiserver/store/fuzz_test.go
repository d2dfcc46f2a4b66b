package store

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// FuzzStored reads what a damaged or hostile storage may have as an object. What is read can be stored again.
func FuzzStored(f *testing.F) {
	value, err := encode(configMaps, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Data: map[string]string{"k": "v"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(value)
	f.Add([]byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"},"data":{"a":"eA=="}}`))
	f.Add([]byte(`{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"a"},"spec":{"n":1e99}}`))
	f.Add([]byte("k8s\x00\n\x0f\n\x02v1\x12\tConfigMap\x12\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, r := range []*resource.Resource{configMaps, secrets, widgets} {
			obj, err := decode(r, data)
			if err != nil {
				continue
			}
			if _, err := encode(r, obj); err != nil {
				t.Errorf("%q is a %s that cannot be stored: %v", data, r.Kind, err)
			}
		}
	})
}

// FuzzContinue reads tokens of pages. One that is good is what the server makes of it.
func FuzzContinue(f *testing.F) {
	f.Add(token{Revision: 5, Start: "default/c"}.encode())
	f.Add(token{Revision: -1, Start: "\x00"}.encode())
	f.Add(token{Revision: 1, Start: "../x"}.encode())
	f.Fuzz(func(t *testing.T, text string) {
		read, err := decodeToken(text)
		if err != nil {
			return
		}
		again, err := decodeToken(read.encode())
		if err != nil || again != read {
			t.Errorf("%q is %+v, and then %+v, %v", text, read, again, err)
		}
	})
}
