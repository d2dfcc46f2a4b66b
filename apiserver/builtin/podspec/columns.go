package podspec

import (
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/apiserver/builtin/table"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// ContainersColumn and ImagesColumn are the columns of workloads that show the
// containers of a template. spec may return nil.
func ContainersColumn[P resource.Object](spec func(P) *v1.PodSpec) resource.Column[P] {
	return containerColumn("Containers", "Names of each container in the template.", spec,
		func(c *v1.Container) string { return c.Name })
}

// ImagesColumn shows the images of a template; see ContainersColumn.
func ImagesColumn[P resource.Object](spec func(P) *v1.PodSpec) resource.Column[P] {
	return containerColumn("Images", "Images referenced by each container in the template.", spec,
		func(c *v1.Container) string { return c.Image })
}

func containerColumn[P resource.Object](name, doc string, spec func(P) *v1.PodSpec, cell func(*v1.Container) string) resource.Column[P] {
	return table.Text(name, doc, func(obj P) string {
		s := spec(obj)
		if s == nil {
			return ""
		}
		cells := make([]string, len(s.Containers))
		for i := range s.Containers {
			cells[i] = cell(&s.Containers[i])
		}
		return strings.Join(cells, ",")
	})
}
