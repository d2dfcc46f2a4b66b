package builtin

import (
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/apiserver/resource/resourcetest"
)

// TestCellsDependOnTheObjectAlone holds what lets rows of tables be kept: a cell is the same whenever it is asked for, or
// it is an age and says so.
func TestCellsDependOnTheObjectAlone(t *testing.T) {
	ages := 0
	for _, r := range Resources(Deps{}) {
		for seed := range uint64(20) {
			obj := r.New()
			resourcetest.Fill(obj, rand.New(rand.NewPCG(seed, 3)))
			r.Default(obj)
			synctest.Test(t, func(t *testing.T) {
				before := cells(r, obj)
				time.Sleep(1000 * time.Hour)
				for i, after := range cells(r, obj) {
					if _, isAge := after.(resource.Since); isAge {
						ages++
					}
					if !reflect.DeepEqual(before[i], after) {
						t.Errorf("%s, column %s: the cell was %v and is %v", r.Plural, r.Columns[i].Name, before[i], after)
					}
				}
			})
		}
	}
	if ages == 0 {
		t.Error("no cell is an age")
	}
}

func cells(r *resource.Resource, obj resource.Object) (all []any) {
	for _, c := range r.Columns {
		all = append(all, c.Value(obj))
	}
	return all
}
