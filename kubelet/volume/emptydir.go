package volume

import (
	"context"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	podresources "k8s.io/component-helpers/resource"
)

// emptyDir volumes live as long as their pod: a directory, a tmpfs or a hugetlbfs that everybody may write to.
type emptyDir struct{}

func (emptyDir) hostPath(v *volume) string              { return v.dir("empty-dir") }
func (emptyDir) refresh(context.Context, *volume) error { return nil }

func (emptyDir) setUp(ctx context.Context, v *volume) error {
	dir := v.dir("empty-dir")
	var err error
	switch medium := v.EmptyDir.Medium; {
	case medium == v1.StorageMediumDefault:
		err = makeDir(dir, 0o777)
	case medium == v1.StorageMediumMemory:
		err = makeTmpfs(dir, smaller(v.memory(), v.EmptyDir.SizeLimit))
	case medium == v1.StorageMediumHugePages || strings.HasPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix)):
		var page resource.Quantity
		if page, err = pageSize(v.pod, medium); err == nil {
			err = makeHugetlbfs(dir, page)
		}
	default:
		return fmt.Errorf("unknown storage medium %q", medium)
	}
	if err != nil {
		return err
	}
	return giveRoot(ctx, dir, v.fsGroup(), writable)
}

// memory bounds a tmpfs by what the pod can use at most.
func (v *volume) memory() *resource.Quantity {
	limits := podresources.PodLimits(v.pod, podresources.PodResourcesOptions{})
	unlimited := false
	for _, c := range v.pod.Spec.Containers {
		unlimited = unlimited || c.Resources.Limits.Memory().IsZero()
	}
	if whole := v.pod.Spec.Resources; whole != nil && !whole.Limits.Memory().IsZero() {
		unlimited = false
	}
	node := v.m.allocatable()[v1.ResourceMemory]
	if unlimited {
		return &node
	}
	return smaller(&node, limits.Memory())
}

// smaller is the smaller of two sizes, of which nil and zero mean no bound.
func smaller(a, b *resource.Quantity) *resource.Quantity {
	switch {
	case b == nil || b.IsZero():
		return a
	case a == nil || a.IsZero() || b.Cmp(*a) < 0:
		return b
	}
	return a
}

// pageSize is the size of huge pages the medium names, or that all containers agree on.
func pageSize(pod *v1.Pod, medium v1.StorageMedium) (resource.Quantity, error) {
	var asked []string
	for _, c := range containersOf(pod) {
		for name := range c.Resources.Requests {
			size, found := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
			if found && (len(asked) == 0 || asked[0] != size) {
				asked = append(asked, size)
			}
		}
	}
	if size, found := strings.CutPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix)); found {
		for _, have := range asked {
			if have == size {
				return resource.ParseQuantity(size)
			}
		}
		asked = nil
	}
	switch len(asked) {
	case 0:
		return resource.Quantity{}, fmt.Errorf("medium %s: hugePages storage requested, but there is no resource request for huge pages", medium)
	case 1:
		return resource.ParseQuantity(asked[0])
	}
	return resource.Quantity{}, fmt.Errorf("medium: %s can't be used if container requests multiple huge page sizes", medium)
}
