package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// figure is one row of the table for one server. Rows differ in their names.
type figure struct {
	row   string
	unit  unit
	value float64
}

// unit says how a value is written and which way is better.
type unit struct {
	name         string
	moreIsBetter bool
}

var (
	seconds   = unit{"s", false}
	millis    = unit{"ms", false}
	micros    = unit{"µs", false}
	kibibytes = unit{"KiB", false}
	mebibytes = unit{"MiB", false}
	percent   = unit{"%", false}
	perSecond = unit{"/s", true}
)

// inMillis is d as a value of the unit millis.
func inMillis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// column is all figures of one server.
type column struct {
	name    string
	figures []figure
}

func (c column) figure(row string) (figure, bool) {
	for _, f := range c.figures {
		if f.row == row {
			return f, true
		}
	}
	return figure{}, false
}

// medians joins the columns of several runs, which have the same servers and
// rows, to one run.
func medians(runs [][]column) []column {
	var joined []column
	for c, column := range runs[0] {
		column.figures = slices.Clone(column.figures)
		for i := range column.figures {
			var values []float64
			for _, run := range runs {
				values = append(values, run[c].figures[i].value)
			}
			column.figures[i].value = median(values)
		}
		joined = append(joined, column)
	}
	return joined
}

// median is the value in the middle, or the mean of the two there.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// table sets the columns beside the first, in Markdown, each with how many
// times better it is: twice the rate and half the time are both 2. Rows are in
// the first column's order.
func table(columns []column) string {
	var b strings.Builder
	first := columns[0]
	b.WriteString("| | " + first.name + " |")
	for _, c := range columns[1:] {
		b.WriteString(" " + c.name + " | times better |")
	}
	b.WriteString("\n|---" + strings.Repeat("|---:", 2*len(columns)-1) + "|\n")
	for _, base := range first.figures {
		fmt.Fprintf(&b, "| %s | %s |", base.row, base)
		for _, c := range columns[1:] {
			f, ok := c.figure(base.row)
			if !ok {
				b.WriteString(" – | – |")
				continue
			}
			fmt.Fprintf(&b, " %s | %s |", f, timesBetter(base, f))
		}
		b.WriteString("\n")
	}
	return b.String()
}

func timesBetter(base, f figure) string {
	over, under := base.value, f.value
	if f.unit.moreIsBetter {
		over, under = under, over
	}
	if under == 0 {
		return "–"
	}
	return digits(over / under)
}

func (f figure) String() string {
	if f.unit == perSecond {
		return digits(f.value) + f.unit.name
	}
	return digits(f.value) + " " + f.unit.name
}

// digits writes a value with two or three digits that count, and thousands
// apart.
func digits(v float64) string {
	switch {
	case v < 1:
		return fmt.Sprintf("%.2f", v)
	case v < 100:
		return fmt.Sprintf("%.1f", v)
	case v < 1000:
		return fmt.Sprintf("%.0f", v)
	}
	whole := int(v) / 10 * 10
	return fmt.Sprintf("%d,%03d", whole/1000, whole%1000)
}
