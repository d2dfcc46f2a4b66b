package upstream

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// form is how the pods of a test are stored: as built-in kinds are, or as
// custom resources.
type form int

const (
	protobuf form = iota
	json
)

// row describes the pods of the contract, which have one in every test.
func row(f form, clusterScoped bool, lifetime func(namespace, name string) uint64) *resource.Resource {
	if f == json {
		return resource.Define[jsonPodList](resource.Definition[jsonPod]{
			Group: examplev1.GroupName, Version: "v1", Kind: "Pod", Plural: "pods", ClusterScoped: clusterScoped,
			TTL: func(p *jsonPod) uint64 { return lifetime(p.Namespace, p.Name) },
		})
	}
	return resource.Define[examplev1.PodList](resource.Definition[examplev1.Pod]{
		Group: examplev1.GroupName, Version: "v1", Kind: "Pod", Plural: "pods", ClusterScoped: clusterScoped,
		TTL:     func(p *examplev1.Pod) uint64 { return lifetime(p.Namespace, p.Name) },
		Fields:  map[string]func(*examplev1.Pod) string{"spec.nodeName": func(p *examplev1.Pod) string { return p.Spec.NodeName }},
		IndexBy: "spec.nodeName",
	})
}

// jsonPod is a pod that has no protobuf form.
type jsonPod examplev1.Pod

type jsonPodList examplev1.PodList

func (p *jsonPod) DeepCopyObject() runtime.Object {
	return (*jsonPod)((*examplev1.Pod)(p).DeepCopy())
}

func (l *jsonPodList) DeepCopyObject() runtime.Object {
	return (*jsonPodList)((*examplev1.PodList)(l).DeepCopy())
}

var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{example.AddToScheme, examplev1.AddToScheme} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	return s
}()

// stored makes of a pod of the contract one to store.
func stored(f form, obj runtime.Object) (resource.Object, error) {
	pod := new(examplev1.Pod)
	if err := scheme.Convert(obj.DeepCopyObject(), pod, nil); err != nil {
		return nil, err
	}
	if f == json {
		return (*jsonPod)(pod), nil
	}
	return pod, nil
}

// read makes of a stored pod one of the contract.
func read(obj runtime.Object) (*example.Pod, error) {
	pod, ok := obj.(*examplev1.Pod)
	if !ok {
		pod = (*examplev1.Pod)(obj.(*jsonPod))
	}
	into := new(example.Pod)
	return into, scheme.Convert(pod.DeepCopy(), into, nil)
}
