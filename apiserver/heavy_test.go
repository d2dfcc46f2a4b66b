package apiserver_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestHeavyPatches sends patches of nearly 3 MB that would take minutes, and
// smaller ones of the same kind.
func TestHeavyPatches(t *testing.T) {
	s := apiservertest.Start(t, nil)
	admin := client(t, apiservertest.Config(s, "admin"), inJSON).CoreV1()
	if _, err := admin.ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: "x", Finalizers: []string{"example.com/first"}}, Secrets: []corev1.ObjectReference{{Name: "first"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	join := func(before, each, after string, n int) []byte {
		var b strings.Builder
		b.WriteString(before)
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, each, i)
		}
		return []byte(b.String() + after)
	}
	for name, c := range map[string]struct {
		kind                types.PatchType
		before, each, after string
		few, many           int
	}{
		"elements":      {types.StrategicMergePatchType, `{"secrets":[`, `{"name":"s%d"}`, `]}`, 100, 150_000},
		"order":         {types.StrategicMergePatchType, `{"$setElementOrder/secrets":[`, `{"name":"s%d"}`, `],"secrets":[]}`, 100, 150_000},
		"deletions":     {types.StrategicMergePatchType, `{"secrets":[`, `{"name":"t%d","$patch":"delete"}`, `]}`, 100, 80_000},
		"finalizers":    {types.StrategicMergePatchType, `{"metadata":{"finalizers":[`, `"example.com/%d"`, `]}}`, 100, 140_000},
		"applied keys":  {types.ApplyPatchType, `{"apiVersion":"v1","kind":"ServiceAccount","metadata":{"name":"x","annotations":{`, `"k%d":"x"`, `}}}`, 2000, 200_000},
		"merged keys":   {types.MergePatchType, `{"metadata":{"annotations":{`, `"m%d":"x"`, `}}}`, 2000, 200_000},
		"moved in list": {types.JSONPatchType, `[`, `{"op":"add","path":"/metadata/finalizers/0","value":"example.com/j%[1]d"}`, `]`, 100, 10_001},
	} {
		t.Run(name, func(t *testing.T) {
			patch := func(n int) error {
				options := metav1.PatchOptions{FieldManager: "test"}
				if c.kind == types.ApplyPatchType {
					options.Force = ptr.To(true)
				}
				_, err := admin.ServiceAccounts("default").Patch(t.Context(), "x", c.kind, join(c.before, c.each, c.after, n), options)
				return err
			}
			if err := patch(c.few); err != nil {
				t.Errorf("patch with %d: %v", c.few, err)
			}
			if err := patch(c.many); !apierrors.IsRequestEntityTooLargeError(err) {
				t.Errorf("patch with %d = %.200v, want too large", c.many, err)
			}
		})
	}
	if _, err := admin.ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "keys"}, Data: keys(200_000),
	}, metav1.CreateOptions{}); !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("create with as many keys = %.200v, want too large", err)
	}
}

func keys(n int) map[string]string {
	data := make(map[string]string)
	for i := range n {
		data[fmt.Sprint("k", i)] = ""
	}
	return data
}
