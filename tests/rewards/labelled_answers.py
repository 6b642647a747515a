r"""Answers with known labels: (category, right answer, given answer, whether the one answers the other).

Hand-written ones first, by category, then systematic ones: many spellings of a number whose value is known, and its wrong
neighbours. Labels come from the writer or from exact rational arithmetic, never from the judge under test. They follow the
judge's stated rules: per cent is part of a number, and what has to be worked out (`12*34`, `816/2` for 408) is no answer.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import NamedTuple

from published_problems import published_records


class Labelled(NamedTuple):
    category: str
    right: str
    given: str
    same: bool


# category: right answer, then spellings that are right (+) and answers that are wrong (-), parted by two blanks
HAND = r"""
integer: 408
  + 408  408.0  +408  408.  $408$  \(408\)  \text{408}  \mathbf{408}  ４０８  408 \,  x=408
  - -408  407  409  4080  40.8  804  12 \cdot 34  12*34  400+8  408, 409  407 or 408  4 0 8  \sqrt{166464}  \frac{816}{2}
  - four hundred  408?  ~  408!
integer: 1024
  + 1024  1,024  1024.0
  - 2^{10}  2^10  4^5  32^2  1024^2  2048/2  512 \cdot 2
integer: 1000000
  + 10^6  10^{6}  1 million  1,000,000  100万  1 \times 10^6  一百万
  - 100^3  10^5  10^7  1000^2
integer: -5
  + -5  −5  - 5  －5  -5.0  (-5)  x = -5
  - 5  -6  --5  |-5|  5-  -5i  -5, 5  \pm 5  -\frac{10}{2}  \frac{-10}{2}
thousands: 1234567
  + 1234567  1,234,567  1{,}234{,}567  1,\!234,\!567  1\,234\,567  \$1,234,567  1,234,567.0
  - 1,234,56  123,4567  1,234,568  1.234.567  1,234  1, 234, 567  234567
thousands: 58,500
  + 58500  58,500  58{,}500  58,\!500  5.85*10^4  5.85 \times 10^4
  - 58,501  58.500  58, 500  58  500
thousands: 32,\!348
  + 32348  32,348  \$32,348
  - 32,349  32.348
fraction: \frac{3}{4}
  + 3/4  \frac34  \dfrac{3}{4}  \tfrac{3}{4}  \cfrac{3}{4}  0.75  .75  6/8  \frac{6}{8}  \frac{3}4  \frac{-3}{-4}  ¾
  + 3 / 4  3÷4  3⁄4  四分之三  $\frac{3}{4}$
  - 4/3  \frac43  -3/4  3/5  0.74  0.7499999  75%  75\%  \frac{3}{4}x  3:4  3,4  3  4  \frac{30}{4}
  - \frac{1}{2}+\frac{1}{4}  3\frac{1}{4}  四又四分之三  三分之四
fraction: -\frac{24}{25}
  + -24/25  \frac{-24}{25}  \frac{24}{-25}  -0.96  -\dfrac{24}{25}
  - 24/25  -25/24  0.96  -0.95  -\frac{24}{52}
fraction: 72/180
  + 2/5  0.4  \frac{2}{5}  72/180  \frac{72}{180}
  - 180/72  40%  5/2  0.04
mixed: 1\frac{4}{5}
  + 9/5  1.8  1 4/5  1\dfrac{4}{5}  1\,\frac{4}{5}  1又4/5  1又五分之四  一又五分之四  \frac{9}{5}
  - 4/5  14/5  1.45  5/9  -1\frac{4}{5}  1\frac{5}{4}  1\cdot\frac{4}{5}
mixed: 137 \frac{1}{2}
  + 137.5  275/2  137½  137 1/2  \frac{275}{2}
  - 1371/2  68.5  137  137.2  137, 1/2
mixed: -2\frac{1}{2}
  + -2.5  -5/2  -2 1/2  -2½  负二又二分之一
  - -1.5  2.5  -3/2  -21/2
decimal: 0.15
  + .15  0.150  3/20  \frac{3}{20}  15/100  1.5*10^{-1}  1.5e-1
  - 15%  0.51  1.5  0.0015  0.16  -0.15  20/3
decimal: .0000672
  + 0.0000672  6.72 \times 10^{-5}  6.72*10^-5  6.72e-5
  - .0000671  .00006721  6.72  672  0.00067  6.72 \times 10^{5}
decimal: 3.14
  + 3.14  3.140  157/50
  - \pi  3.1416  22/7  3,14  31.4  3.1
percent: 50\%
  + 50%  50 %  $50\%$  50\%  50 percent  50\text{ percent}  百分之五十  50.0%  ５０％  百分之50
  - 0.5  1/2  50  0.5%  5%  500%  -50%  百分之五  50 cm  \$50  \frac{100}{2}\%
percent: 27.3%
  + 27.3\%  27.30%  27.3 %
  - 27.3  0.273  27%  2.73%  73.2%
percent: 0.5
  + 1/2  0.50  .5
  - 50%  5%  0.5%
unit: 5\text{ cm}
  + 5  5 cm  5cm  5\,\text{cm}  5\mathrm{cm}  5~\mathrm{cm}  5\mbox{ cm}  5 centimeters  5厘米  5 厘米  ５厘米  五厘米
  - 5 m  5\text{ m}  5 mm  50 mm  0.05 m  6 cm  5 cm^2  5米  5毫米  5 dozen  5 inches  5 km  5 square cm  5平方厘米
unit: 15\mbox{ cm}^2
  + 15  15\text{ cm}^2  15 cm^2  15 cm²  15 square centimeters  15 sq. cm  15平方厘米  15 \text{ cm}^{2}  十五平方厘米  15㎠
  - 15 cm  15 cm^3  51 cm^2  15 m^2  15厘米  15立方厘米  15^2  225
unit: 60\text{ km/h}
  + 60  60 km/h  60\text{ km/h}  60 kilometers per hour  60千米/时  60公里/小时  60 千米/小时
  - 60 km  60 m/s  60 km/min  60 mph  16 km/h  60 h/km
unit: 864 \mbox{ inches}^2
  + 864  864 square inches  864 in^2  864\text{ in}^2  864 \text{ sq in}
  - 864 inches  864 feet^2  648
unit: 20个
  + 20  20个  二十  二十个  20 个
  - 21  12  200  20元  20厘米  二百  十二
unit: 18
  + 18  18 dollars  \$18  18\text{ dollars}  18元  18个  18 eggs  \text{18 eggs}  $18  $18.00  十八  十八个
  - 18 thousand  18 dozen  18 million  18%  81  18 or 19  not 18  18k  18x  18万
unit: 3小时
  + 3  3 小时  3小时  三小时  3 hours  3\text{ h}
  - 3分钟  3 days  180分钟  3秒  13小时
unit: 3\frac{1}{2}\text{ hours}
  + 3.5  7/2  3.5 hours  3 1/2 hours  3.5小时  三又二分之一小时
  - 3.5 minutes  31/2  3.2  210 min
money: \$18.90
  + 18.90  18.9  $18.90  \$18.90  \$18.9  18.90 dollars  18.9美元  $18.9$
  - ¥18.90  18.90元  €18.90  £18.90  \$19.80  \$189  18.90 cents  1890
money: 5.4 \text{ cents}
  + 5.4  5.4 cents  5.4¢  5.4\text{ cents}
  - \$5.4  0.054 dollars  54 cents  5.4 dollars
money: 12元
  + 12  12元  ¥12  12 元  12块  12块钱  十二元
  - 12角  12美元  21元  1.2元  \$12
degrees: 30^\circ
  + 30  30°  30^\circ  30^{\circ}  30 degrees  30\text{ degrees}  30度  30\degree  三十度
  - \frac{\pi}{6}  60^\circ  30 cm  -30^\circ  150°  30^\circ C  30%
degrees: \frac{270}7\text{ degrees}
  + \frac{270}{7}  \frac{270}{7}^\circ  270/7  270/7 degrees
  - 7/270  270  38.57  \frac{270}{7}\text{ cm}
named: x=5
  + 5  x=5  x = 5  $x=5$  x=5.0
  - y=5  x=6  5=x+0  x=-5  x>5  x\ne5  2x=10  x=5,6  x=5 or x=6  x=\frac{10}{2}
named: 7
  + n=7  m = 7  f(2)=7  x_1=7  AB=7  \angle A=7
  - n=8  x=7y  7=8  7<8  x<7
named: f(x)=2x+3
  + f(x) = 2x+3  2x+3  3+2x  f(x)=3+2x
  - g(x)=2x+3  f(x)=2x-3  f(x)=3x+2  2x  f(y)=2y+3
named: x=1, y=2
  + x=1, y=2  y=2, x=1  x=1,y=2  x=1 and y=2  x = 1; y = 2
  - x=2, y=1  1, 2  2, 1  x=1  y=2  x=1, x=2  x=1, y=2, z=3  (1,2)  a=1, b=2
equation: y = 2x + 3
  + y=2x+3  y = 3 + 2x  2x - y + 3 = 0  y-2x=3
  - y=2x-3  x=2y+3  y=3x+2  2x+y+3=0  y<2x+3  y=2
equation: 5x - 7y + 11z + 4 = 0
  + 5x-7y+11z+4=0  -5x+7y-11z-4=0  10x-14y+22z+8=0  5x-7y+11z=-4
  - 5x+7y+11z+4=0  5x-7y+11z-4=0  5x-7y+11z+4=1  5x-7y+11z=4  0=0  x-x=0  5x-7y+11z+4
equation: x^2+y^2=4
  + x^2+y^2=4  y^2+x^2=4  x^2+y^2-4=0  2x^2+2y^2=8
  - x^2+y^2=2  x^2-y^2=4  (x+y)^2=4  x^2+y^2<4  x^2+y^2=16
interval: (3,4]
  + (3,4]  (3, 4]  \left(3,4\right]  \left( 3, 4 \right]  3<x\le 4  3 < x ≤ 4  x \in (3,4]  4 \ge x > 3  x∈(3,4]
  - [3,4]  [3,4)  (3,4)  (4,3]  (3,5]  (3,4]\cup\{5\}  3\le x<4  3<x<4  3,4  \{3,4\}  x>3  (3.0, \frac{8}{2}]
interval: (-\infty, 0]
  + (-\infty,0]  (-∞, 0]  \left(-\infty, 0\right]  x \le 0  x\leq 0  0 \ge x  x ≤ 0
  - (-\infty,0)  [-\infty,0]  (\infty,0]  x<0  x \ge 0  [0,\infty)  (-\infty,1]  0
interval: x \in [-2,7]
  + [-2,7]  x\in[-2,7]  -2 \le x \le 7  [-2, 7]  x \in \left[-2,7\right]
  - (-2,7)  [-2,7)  (-2,7]  [2,7]  [-7,2]  y\in[-2,7]  -2 < x < 7  -2,7  \{-2,7\}
interval: (2,\infty)
  + (2,\infty)  (2,+\infty)  (2, ∞)  x>2  2<x
  - [2,\infty)  (-\infty,2)  (2,\infty]  x\ge2  x<2  (2,3)  (2,-\infty)
interval: [0,1)
  + [0,1)  \left[0,1\right)  0 \le x < 1  [0, 1.0)
  - [0,1]  (0,1)  (0,1]  [1,0)  0\le x\le 1  0,1
union: (-\infty, 2) \cup (3, \infty)
  + (-\infty,2)\cup(3,\infty)  (3,\infty)\cup(-\infty,2)  (-∞,2)∪(3,+∞)  x\in(-\infty,2)\cup(3,\infty)
  - (-\infty,2]\cup(3,\infty)  (-\infty,2)\cup[3,\infty)  (-\infty,3)\cup(2,\infty)  (-\infty,2)  (-\infty,\infty)
  - (-\infty,2),(3,\infty)  (2,3)
union: (0,9) \cup (9,36)
  + (0,9)\cup(9,36)  (9,36)\cup(0,9)
  - (0,36)  (0,9]\cup(9,36)  [0,9)\cup(9,36)  (0,9)\cup(9,63)
union: (-\infty, 2) \cup (3, \infty)
  + x<2 \text{ or } x>3  x<2或x>3  x>3 or x<2
  - x<2 and x>3  x<2, x>3  x\le2 or x>3  x<3 or x>2  x<2 or y>3
word: No
  + no  No  \text{No}  NO
  - on  yes  n  o  not
algebra: ab
  + ab  ba  a \cdot b
  - a+b  a  AB  abc  a,b
algebra: xyz
  + xyz
  - xy  x+y+z
equation: x - y = 0
  + x=y  y=x  x-y=0  2x=2y
  - x=-y  x+y=0  x-y=1  0=0
algebra: 2x+3
  + 2x+3  y=2x+3  f(x)=2x+3  3 + 2x  $2x+3$
  - x=2x+3  2x+3=0  y=2x-3  3x+2
list: 1, 2
  + $1$ and $2$  $1$, $2$  $x=1$ or $x=2$  1 \text{ and } 2  2, 1  \text{1 or 2}
  - $1$  12  (1,2)  1 \text{ to } 2  1-2
money: \$5
  + $5  $5$  $5$ dollars  \$5.00  5
  - $5 or $6  5元  $6
point: (2s, 3t)
  + (2s,3t)  (2 s, 3 t)  (s \cdot 2, 3t)
  - (2,3)  (2s,3)  (3t,2s)
inequality: x < y+1
  + x<y+1  y+1>x  x-y<1  x - 1 < y  2x<2y+2
  - x>y+1  x\le y+1  x<y-1  x=y+1  y<x+1
inequality: x \neq 3
  + x\ne3  x ≠ 3  3\neq x
  - x=3  x\ne-3  3  x<3
point: (2,5)
  + (2,5)  (2, 5)
  - 2<x<5  (5,2)  [2,5]  x\in(2,5)  (\frac{4}{2},5.0)
interval: 2 < x < 5
  + (2,5)  2<x<5  x\in(2,5)  5>x>2  x \in \left(2, 5\right)
  - [2,5]  (2,5]  2\le x\le5  2<y<5  2,5  2>x>5
point: (-2,1)
  + (-2,1)  (-2, 1)  \left(-2,1\right)  (x,y)=(-2,1)  (-2.0, 1)  （-2，1）  $(-2,1)$
  - (1,-2)  (2,1)  (-2,-1)  [-2,1]  -2,1  \{-2,1\}  -2<x<1  (-2,1,0)  (-2,1]  (-21)  -1
point: (6,31,-1)
  + (6,31,-1)  (6, 31, -1)  \left( 6, 31, -1 \right)  (x,y,z)=(6,31,-1)
  - (31,6,-1)  (6,31,1)  (6,31)  6,31,-1  [6,31,-1]  (6,31,-1,0)
point: (1,234)
  + (1,234)  (1, 234)
  - (1234)  1234  1,234  (234,1)
point: \left( 3, \frac{\pi}{2} \right)
  + (3,\frac{\pi}{2})  (3, \pi/2)  \left(3, \dfrac{\pi}{2}\right)  (3,0.5\pi)
  - (\frac{\pi}{2},3)  (3,\pi)  (3,-\frac{\pi}{2})  (3,1.57)  [3,\frac{\pi}{2}]
list: 3, 5, 7
  + 3,5,7  3, 5, 7  7, 5, 3  3, 5 and 7  3, 5, and 7  \{3,5,7\}  3、5、7  3，5，7  3和5和7  x=3,5,7
  - 3,5  3,5,7,9  3,5,8  (3,5,7)  357  3,5,5  3,3,5,7  1,2,3,4,5,6,7  15  3
list: 1,-2
  + 1,-2  -2,1  1 and -2  x=1 or x=-2  x=1或x=-2  1或-2  \{1,-2\}  \{-2, 1\}  x_1=1, x_2=-2  x_1=1，x_2=-2  x₁=-2，x₂=1
  + 1;-2
  - -1,2  1  -2  1,2  (1,-2)  1,-2,3  x=1, y=-2  -1  [1,-2]  1,1
list: x=1或x=-2
  + 1,-2  x=-2或x=1  x=1, x=-2  \{1,-2\}  1或-2
  - x=1  x=1或x=2  y=1或y=-2  x=1且x=2  -2
set: \{1,2,3\}
  + \{1,2,3\}  \{3,2,1\}  \left\{1,2,3\right\}  \lbrace 1,2,3\rbrace  1,2,3  {\{1, 2, 3\}}
  - \{1,2\}  \{1,2,3,4\}  \{1,2,4\}  (1,2,3)  \{1,2,2,3\}  \{123\}  \{\{1,2,3\}\}  6
set: \{5\}
  + \{5\}
  - \{6\}  \{\}  \emptyset  \{5,6\}
set: \emptyset
  + \emptyset  \varnothing  ∅  \{\}
  - 0  \{0\}  \{\emptyset\}  none
set: \{1\pm\sqrt{5},-2\}
  + \{1\pm\sqrt{5},-2\}  \{-2,1+\sqrt5,1-\sqrt5\}  1+\sqrt{5}, 1-\sqrt{5}, -2  \{1-\sqrt{5},1+\sqrt{5},-2\}
  - \{1+\sqrt5,-2\}  \{1\pm\sqrt5,2\}  \{-1\pm\sqrt5,-2\}  \{1\pm\sqrt5\}  1\pm\sqrt{5}
plusminus: 1 \pm \sqrt{19}
  + 1\pm\sqrt{19}  1 ± √19  1+\sqrt{19}, 1-\sqrt{19}  1-\sqrt{19} and 1+\sqrt{19}  x=1\pm\sqrt{19}
  + \{1+\sqrt{19},1-\sqrt{19}\}
  - 1+\sqrt{19}  1-\sqrt{19}  -1\pm\sqrt{19}  1\pm\sqrt{17}  \pm\sqrt{19}  1\pm19  \pm 1+\sqrt{19}
plusminus: \pm 3
  + \pm3  ±3  3,-3  -3, 3  x=\pm 3  3 and -3  x=3或x=-3
  - 3  -3  \pm 4  0  3,3
root: 2\sqrt{5}
  + 2\sqrt{5}  2\sqrt5  \sqrt{20}  2√5  2 \cdot \sqrt{5}  2*\sqrt{5}  2 sqrt(5)  \frac{10}{\sqrt{5}}  x=2\sqrt{5}
  - 5\sqrt{2}  \sqrt{10}  2\sqrt{3}  4.47213595499958  -2\sqrt{5}  20  2 5  \sqrt{2}5  2+\sqrt5  \sqrt{25}
root: \frac{\sqrt{3}}{3}
  + \frac{\sqrt3}{3}  \frac{1}{\sqrt{3}}  \sqrt{3}/3  1/\sqrt{3}  \sqrt{\frac{1}{3}}  3^{-1/2}
  - \sqrt{3}  \frac{3}{\sqrt3}  \frac{\sqrt3}{2}  -\frac{\sqrt3}{3}  0.577350269189626  \frac{1}{3}
root: 11\sqrt{5}+11
  + 11+11\sqrt5  11(\sqrt5+1)  11(1+\sqrt{5})  11\sqrt{5} + 11
  - 11\sqrt5-11  22\sqrt5  11\sqrt{5}+1  \sqrt{5}+11  11\sqrt{16}
root: \sqrt[3]{2}
  + \sqrt[3]{2}  2^{1/3}  2^{\frac{1}{3}}  \sqrt[6]{4}
  - \sqrt{2}  2^3  3\sqrt2  \sqrt[2]{3}  1.2599
root: \sqrt{3+2\sqrt{2}}
  + 1+\sqrt{2}  \sqrt{2}+1  \sqrt{3+2\sqrt2}
  - 1-\sqrt{2}  2+\sqrt2  \sqrt{3-2\sqrt{2}}
pi: 12\pi
  + 12\pi  12π  12 \pi  \pi\cdot12  12 \times \pi  12\pi \text{ cm}  3\cdot 4\pi  \frac{24\pi}{2}
  - 12  \pi  21\pi  37.699  37.68  12\pi^2  -12\pi  12\%
pi: \frac{20000}{\pi}
  + 20000/\pi  \frac{20000}{π}  20000\pi^{-1}  \frac{40000}{2\pi}
  - 20000\pi  \frac{\pi}{20000}  6366.2  \frac{2000}{\pi}
pi: 18+2\pi
  + 18+2\pi  2\pi+18  2(9+\pi)  2(\pi + 9)
  - 20\pi  18-2\pi  2+18\pi  36\pi
algebra: 6r^2-4r-24
  + 6r^2-4r-24  2(3r^2-2r-12)  -24-4r+6r^2  6r²-4r-24  6*r^2-4*r-24  6r**2-4r-24
  - 6r^2+4r-24  6x^2-4x-24  6r^2-4r  6r-4r-24  -26  6r^2-4r-24=0
algebra: (a+5)(b+2)
  + (b+2)(a+5)  (a+5)(b+2)  ab+2a+5b+10  (5+a)(2+b)
  - (a+2)(b+5)  (a-5)(b+2)  (a+5)(b+2)c  ab+10  (a+5,b+2)  (A+5)(B+2)
algebra: \frac{11+9a}{20}
  + \frac{9a+11}{20}  (11+9a)/20  \frac{11}{20}+\frac{9a}{20}  \frac{22+18a}{40}
  - \frac{11-9a}{20}  \frac{20}{11+9a}  11+9a/20  \frac{20a}{20}  a
algebra: p - q
  + p-q  -q+p  -(q-p)
  - q-p  p+q  p  -p-q  pq  P-Q
algebra: 2k+2
  + 2k+2  2(k+1)  2+2k
  - 2k  2n+2  2k-2  4k  2k+2 cm^2+k
algebra: x^5 - x^4 + x^3 - x^2 + x - 1
  + (x-1)(x^4+x^2+1)  \frac{x^6-1}{x+1}  -1+x-x^2+x^3-x^4+x^5
  - x^5+x^4+x^3+x^2+x+1  x^5-x^4+x^3-x^2+x  (x-1)^5
trigonometry: \cot x
  + \cot x  \cot(x)  \frac{\cos x}{\sin x}  \frac{1}{\tan x}  cot x
  - \tan x  \cot y  -\cot x  \cos x  \cot 2x
trigonometry: \sin^2 x
  + \sin^2 x  (\sin x)^2  1-\cos^2 x  \sin^2(x)
  - \sin x^2  \cos^2 x  \sin 2x  2\sin x  1+\cos^2 x
logarithm: \ln 2
  + \ln 2  \ln(2)  \frac{1}{2}\ln 4  -\ln\frac{1}{2}  ln 2  \ln{2}
  - \log_2 e  \ln 3  0.693147180559945  2  \log 2  \lg 2  -\ln 2
logarithm: \log_2 3
  + \log_2 3  \log_{2}{3}  \frac{\ln 3}{\ln 2}  \log_2(3)
  - \log_3 2  \ln 3  1.58496  \log_2 9
complex: 1+2i
  + 1+2i  2i+1  1 + 2i  1+2 i  i(2-i)  z=1+2i
  - 1-2i  2+i  -1-2i  3i  1+2  1+2j  (1,2)
complex: 6 - 5i
  + 6-5i  -5i+6  6 - 5 i
  - 6+5i  5-6i  11i  -6+5i
matrix: \begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}
  + \begin{pmatrix}-1&0\\0&-1\end{pmatrix}  \begin{bmatrix} -1 & 0 \\ 0 & -1 \end{bmatrix}
  + \begin{pmatrix} -1 & 0 \\ 0 & -1 \\ \end{pmatrix}
  - \begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}  \begin{pmatrix} 0 & -1 \\ -1 & 0 \end{pmatrix}
  - \begin{pmatrix} -1 & 0 \end{pmatrix}  -1  (-1,0,0,-1)
matrix: \begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}
  + \begin{pmatrix} \frac{1}{5} \\ -\frac{18}{5} \end{pmatrix}  \begin{pmatrix} 0.2 \\ -3.6 \end{pmatrix}
  - \begin{pmatrix} 1/5 & -18/5 \end{pmatrix}  \begin{pmatrix} 1/5 \\ 18/5 \end{pmatrix}
  - \begin{pmatrix} -18/5 \\ 1/5 \end{pmatrix}  (1/5,-18/5)
base: 204_5
  + 204_5  204_{5}  $204_5$  204_{\text{5}}
  - 204  54  204_6  402_5  2045
choice: \text{(B)}
  + B  (B)  \text{B}  \text{(B)}  \mathrm{B}  B.  $B$
  - A  C  (C)  AB  b  BB  A, B  B or C  D  8
word: \text{Evelyn}
  + Evelyn  \text{Evelyn}  evelyn  \mathrm{Evelyn}  Evelyn.
  - Navin  Eve  Evelyn and Navin  not Evelyn  nylevE  Evelyn or Navin
word: \text{even}
  + even  \text{even}  Even
  - odd  uneven  event  even or odd  not even
word: 星期三
  + 星期三  \text{星期三}  星期三。
  - 星期四  星期  三  3  星期三或星期四
ratio: 3:5
  + 3:5  3 : 5  3：5  3\!:\!5
  - 5:3  3/5  35  3:5:1  3.5
chinese: 120
  + 一百二十  120  一百二十元  120千米  １２０
  - 一百二十一  一百零二  十二  一千二百  12
chinese: 30000
  + 3万  三万  30000  3万元  30,000
  - 3千  三  3  三万一千  30万  3亿
chinese: 105
  + 一百零五  105  １０５
  - 一百五十  一百五  十五  一零五零  150
chinese: 1/3
  + 三分之一  \frac{1}{3}  1/3  2/6
  - 三分之二  二分之一  三  0.33  0.333333333333  百分之三十三
chinese: 3.5
  + 三点五  3.5  7/2
  - 三点四  五点三  35  三
"""
FACTORS = ("cm", "km", "元", "小时", "kg")


@cache
def labelled_answers() -> tuple[Labelled, ...]:
    """All of them, at least 1 000, without repetition."""
    return tuple(dict.fromkeys([*_hand_written(), *_systematic()]))


def _hand_written() -> Iterator[Labelled]:
    category = right = ""
    for line in HAND.strip().splitlines():
        if line.startswith("  "):
            for given in line[4:].split("  "):
                yield Labelled(category, right, given.strip(), line[2] == "+")
        else:
            category, _, right = line.partition(": ")


def spellings(value: Fraction) -> list[str]:
    """Ways to write a rational number, without a unit."""
    above, below = value.numerator, value.denominator
    sign, size = ("-" if value < 0 else ""), abs(above)
    ways = [
        f"{above}/{below}",
        f"\\frac{{{above}}}{{{below}}}",
        f"{sign}\\dfrac{{{size}}}{{{below}}}",
        f"${sign}\\tfrac{{{size}}}{{{below}}}$",
    ]
    ways += [f"x = {above}/{below}"]
    if below > 1:
        ways += [f"{3 * above}/{3 * below}"]
    else:
        ways += [
            str(above),
            f"{above}.0",
            f"{above}.00",
            f"\\text{{{above}}}",
            f" {above} ",
            f"{above:,}",
            f"{above:,}".replace(",", "{,}"),
        ]
    if size > below > 1:
        ways += [
            f"{sign}{size // below}\\frac{{{size % below}}}{{{below}}}",
            f"{sign}{size // below} {size % below}/{below}",
        ]
    if 10**6 % below == 0:
        ways += [f"{float(value):.6f}".rstrip("0").rstrip("."), f"{float(value):.8f}"]
    return ways


def neighbours(value: Fraction) -> list[str]:
    """Wrong answers near a rational number: sign, inverse, one off, a little off, more than one, not worked out."""
    near = {
        -value,
        value + 1,
        value - 1,
        value * 10,
        value / 10,
        value + Fraction(1, 1000),
        Fraction(value.denominator, value.numerator or 1),
    }
    wrong = [str(other) for other in sorted(near - {value})]
    if value.denominator == 1:
        wrong.append(f"{3 * value}/3")
    return [*wrong, f"{value}%", f"{value}, {value + 1}", f"{value}x", f"({value}, {value})", f"{value - 1}+1"]


def _systematic() -> Iterator[Labelled]:
    draw = random.Random(11)
    values = [Fraction(draw.randint(2, 4000)) for _ in range(12)]
    values += [Fraction(draw.randint(-60, 60) or 7, draw.choice((2, 3, 4, 5, 7, 8, 9, 12, 25))) for _ in range(14)]
    for value in values:
        right = str(value) if draw.random() < 0.5 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
        yield from (Labelled("rational", right, given, True) for given in spellings(value))
        yield from (Labelled("rational", right, given, False) for given in neighbours(value))
    for value in values[:12]:
        for place, unit in enumerate(FACTORS):
            right = f"{value}\\text{{ {unit}}}"
            yield from (Labelled("units", right, f"{value}{gap}{unit}", True) for gap in ("", " ", "\\,"))
            yield Labelled("units", right, f"{value} {FACTORS[place - 1]}", False)
            yield Labelled("units", right, f"{value + 1} {unit}", False)
    for left, end in ((-3, 2), (0, 7), (1, 12)):
        for brackets in ("()", "(]", "[)", "[]"):
            right = f"{brackets[0]}{left},{end}{brackets[1]}"
            for other in ("()", "(]", "[)", "[]"):
                yield Labelled("brackets", right, f"\\left{other[0]}{left}, {end}\\right{other[1]}", other == brackets)
            yield Labelled("brackets", right, f"{brackets[0]}{end},{left}{brackets[1]}", False)


def released(name: str) -> list[str]:
    """Right answers of a released test set: `math500`, `gsm8k_test` or `cmath_test_deepseek`."""
    records = published_records(f"{name}.jsonl.zst")
    if name == "gsm8k_test":
        return [record["answer"].rpartition("####")[2].strip() for record in records]
    return [str(record["answer" if name == "math500" else "golden"]) for record in records]
